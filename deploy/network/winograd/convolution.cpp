// An operator of OpenVINO: a 3x3 convolution with stride 1 in Winograd's form F(4x4, 3x3) (arXiv 1509.09308), with its
// bias, an addition and ReLU, channels last, in float32.
//
// The map is cut into tiles of 4x4 outputs. Some at a time are transformed, multiplied and transformed back while
// they are in the cache. A dilated convolution is that of each of its d x d phases, so its tiles have pixels d apart.

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "openvino/core/extension.hpp"
#include "openvino/core/op_extension.hpp"
#include "openvino/core/parallel.hpp"
#include "openvino/op/op.hpp"

namespace {

constexpr int FREQUENCIES = 36, TILE = 4;
// The interpolation points are 0, +-1/sqrt(2), +-sqrt(2) and infinity: less is lost to rounding than with 1 and 2.
constexpr float INNER = 0.70710678118654752f, OUTER = 1.41421356237309505f;
constexpr int PANEL = 16;      // output channels that lie together in the weights
constexpr int AHEAD = 64;      // input channels that are prefetched
constexpr int CHANNELS = 32;   // of the output, the fewest that one thread takes
constexpr int LINE = 16;       // floats in a line of the cache
constexpr int PADDING = 16;    // floats between tiles: without them a power of two puts all into few sets of the cache

// Of the kernels: LANES floats in a register, ROWS tiles in one block of a product, TILES at a time, enough to read
// the weights seldom and few enough for the cache. 64 were best in 2 MB (a Xeon), 32 in 512 kB (an EPYC with AVX2).

struct Tile {
    int image, y, x;  // its first output
};

struct Range {
    int first, end;
};

struct Convolution {
    const float *image, *weight, *bias, *residual;
    float* out;
    int batch, height, width, c_in, c_out, dilation;
    bool relu;
};

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
constexpr int LANES = 8, ROWS = 6, TILES = 32;
#include "kernel.hpp"
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,fma")
namespace avx512 {
constexpr int LANES = 16, ROWS = 12, TILES = 64;
#include "kernel.hpp"
}  // namespace avx512
#pragma GCC pop_options

std::vector<Tile> tiles_of(const Convolution& of) {
    std::vector<Tile> tiles;
    const int step = TILE * of.dilation;
    for (int image = 0; image < of.batch; image++)
        for (int top = 0; top < std::min(of.dilation, of.height); top++)
            for (int left = 0; left < std::min(of.dilation, of.width); left++)
                for (int y = top; y < of.height; y += step)
                    for (int x = left; x < of.width; x += step) tiles.push_back({image, y, x});
    return tiles;
}

// Memory of this thread, from the start of a line of the cache: a register is then written to one line, not to two.
float* scratch_of(size_t floats) {
    static thread_local std::vector<float> memory;
    size_t space = (floats + LINE) * sizeof(float);
    if (memory.size() < floats + LINE) memory.resize(floats + LINE);
    void* start = memory.data();
    return static_cast<float*>(std::align(LINE * sizeof(float), floats * sizeof(float), start, space));
}

// The n-th of some parts of nearly equal size.
Range part(int whole, int n, int parts) {
    return {static_cast<int>(static_cast<long>(whole) * n / parts), static_cast<int>(static_cast<long>(whole) * (n + 1) / parts)};
}

struct Split {
    int tiles, channels;  // number of parts
};

// Splits the work into at least as many parts as there are threads, of at most so many tiles.
Split split_over(int threads, int tiles, int most, int c_out) {
    const int parts = (tiles + most - 1) / most;
    // Small maps have the largest weights. Where each thread takes some of the channels, it reads that share of them.
    if (parts < threads) return {parts, std::min((threads + parts - 1) / parts, c_out / CHANNELS)};
    // As many parts for each thread, so that none waits for a last one.
    return {std::min(tiles, (parts + threads - 1) / threads * threads), 1};
}

// Floats in the registers to use: 16, 8, or 0 where there are none that will do.
int lanes() {
    // The variable by which OpenVINO's own convolutions are limited, for a comparison on equal terms.
    const char* variable = std::getenv("ONEDNN_MAX_CPU_ISA");
    const std::string limit = variable ? variable : "ALL";
    const bool wide = limit == "ALL" || limit == "DEFAULT" || limit.rfind("AVX512", 0) == 0 || limit.rfind("AVX10", 0) == 0;
    if (wide && __builtin_cpu_supports("avx512f")) return avx512::LANES;
    const bool any = (wide || limit.rfind("AVX2", 0) == 0) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return any ? avx2::LANES : 0;
}

void convolve(const Convolution& of) {
    static const bool wide = lanes() == avx512::LANES;
    const std::vector<Tile> tiles = tiles_of(of);
    const int count = static_cast<int>(tiles.size());
    const Split split = split_over(parallel_get_max_threads(), count, wide ? avx512::TILES : avx2::TILES, of.c_out);
    ov::parallel_for(split.tiles * split.channels, [&](int task) {
        const Range some = part(count, task / split.channels, split.tiles);
        const Range blocks = part(of.c_out / CHANNELS, task % split.channels, split.channels);
        const Range channels = {blocks.first * CHANNELS, blocks.end * CHANNELS};
        const int here = some.end - some.first;
        float* scratch = scratch_of(static_cast<size_t>(FREQUENCIES) * here * (of.c_in + of.c_out + 2 * PADDING));
        (wide ? avx512::convolve : avx2::convolve)(of, channels, &tiles[some.first], here, scratch);
    });
}

}  // namespace

// Inputs: the image (B, H, W, C_in), the weight (36, C_out / 16, C_in, 16), the bias (C_out) and, or not, what is added
// before the ReLU (B, H, W, C_out), which is the shape of the output. C_in is a multiple of 16, C_out of 32.
class WinogradConvolution : public ov::op::Op {
   public:
    OPENVINO_OP("WinogradConvolution", "resformer");

    WinogradConvolution() = default;
    WinogradConvolution(const ov::OutputVector& inputs, int64_t dilation, bool relu)
        : Op(inputs), dilation_(dilation), relu_(relu) {
        constructor_validate_and_infer_types();
    }

    void validate_and_infer_types() override {
        const ov::PartialShape weight = get_input_partial_shape(1), bias = get_input_partial_shape(2);
        ov::PartialShape shape = get_input_partial_shape(0);
        for (size_t i = 0; i < get_input_size(); i++)
            NODE_VALIDATION_CHECK(this, get_input_element_type(i) == ov::element::f32, "every input must be float32");
        NODE_VALIDATION_CHECK(this, weight.is_static() && bias.is_static() && bias.size() == 1, "kernels are constant");
        const int64_t c_out = bias[0].get_length();
        NODE_VALIDATION_CHECK(this, shape.size() == 4 && shape[3].is_static(), "an image is (B, H, W, C)");
        const int64_t c_in = shape[3].get_length();
        NODE_VALIDATION_CHECK(this, c_in % PANEL == 0 && c_out % CHANNELS == 0, "channels come in blocks of 16 and 32");
        NODE_VALIDATION_CHECK(this, weight == ov::PartialShape({FREQUENCIES, c_out / PANEL, c_in, PANEL}),
                              "the weight does not fit the channels");
        shape[3] = c_out;
        NODE_VALIDATION_CHECK(this, get_input_size() < 4 || get_input_partial_shape(3).compatible(shape),
                              "what is added must have the output's shape");
        set_output_type(0, ov::element::f32, shape);
    }

    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<WinogradConvolution>(inputs, dilation_, relu_);
    }

    bool visit_attributes(ov::AttributeVisitor& visitor) override {
        visitor.on_attribute("dilation", dilation_);
        visitor.on_attribute("relu", relu_);
        return true;
    }

    bool has_evaluate() const override { return true; }

    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        const ov::Shape image = inputs[0].get_shape();
        const size_t c_out = inputs[2].get_size();
        outputs[0].set_shape({image[0], image[1], image[2], c_out});
        Convolution of{};
        of.image = inputs[0].data<const float>();
        of.weight = inputs[1].data<const float>();
        of.bias = inputs[2].data<const float>();
        of.residual = inputs.size() > 3 ? inputs[3].data<const float>() : nullptr;
        of.out = outputs[0].data<float>();
        of.batch = static_cast<int>(image[0]);
        of.height = static_cast<int>(image[1]);
        of.width = static_cast<int>(image[2]);
        of.c_in = static_cast<int>(image[3]);
        of.c_out = static_cast<int>(c_out);
        of.dilation = static_cast<int>(dilation_);
        of.relu = relu_;
        convolve(of);
        return true;
    }

   private:
    int64_t dilation_ = 1;
    bool relu_ = false;
};

extern "C" int winograd_lanes() { return lanes(); }

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<WinogradConvolution>>()}));
