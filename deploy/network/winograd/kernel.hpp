// The steps of F(4x4, 3x3) for one set of tiles. Included once for each instruction set, inside a namespace of its own,
// with LANES floats in a register and ROWS tiles in one block of the product.

typedef float Register __attribute__((vector_size(4 * LANES)));
// The same where it lies in memory: at any address, and beside plain floats.
typedef float Stored __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Register load(const float* from) { return *reinterpret_cast<const Stored*>(from); }
static inline void store(float* to, Register values) { *reinterpret_cast<Stored*>(to) = values; }

// B^T of one axis: row i is the polynomial whose roots are all interpolation points but the i-th.
static inline void to_frequencies(const Register (&x)[6], Register (&y)[6]) {
    const Register inner_even = x[4] - 2.0f * x[2], inner_odd = OUTER * x[1] - INNER * x[3];
    const Register outer_even = x[4] - 0.5f * x[2], outer_odd = INNER * x[1] - OUTER * x[3];
    y[0] = x[0] - 2.5f * x[2] + x[4];
    y[1] = inner_even - inner_odd;
    y[2] = inner_even + inner_odd;
    y[3] = outer_even - outer_odd;
    y[4] = outer_even + outer_odd;
    y[5] = x[1] - 2.5f * x[3] + x[5];
}

// A^T of one axis: the powers of the interpolation points.
static inline void to_pixels(const Register (&x)[6], Register (&y)[4]) {
    const Register inner_sum = x[1] + x[2], inner_difference = x[1] - x[2];
    const Register outer_sum = x[3] + x[4], outer_difference = x[3] - x[4];
    y[0] = x[0] + inner_sum + outer_sum;
    y[1] = INNER * inner_difference + OUTER * outer_difference;
    y[2] = 0.5f * inner_sum + 2.0f * outer_sum;
    y[3] = 0.5f * INNER * inner_difference + 2.0f * OUTER * outer_difference + x[5];
}

// Writes the tiles' frequencies, [frequency][tile][channel], with `stride` floats to a tile.
static void transform_input(const Convolution& of, const Tile* tiles, int count, float* spectra, size_t stride) {
    for (int t = 0; t < count; t++) {
        const Tile& tile = tiles[t];
        const float* image = of.image + static_cast<size_t>(tile.image) * of.height * of.width * of.c_in;
        for (int c = 0; c < of.c_in; c += LANES) {
            Register half[6][6];
            for (int j = 0; j < 6; j++) {
                const int x = tile.x + (j - 1) * of.dilation;
                Register column[6], transformed[6];
                for (int i = 0; i < 6; i++) {
                    const int y = tile.y + (i - 1) * of.dilation;
                    const bool inside = y >= 0 && y < of.height && x >= 0 && x < of.width;
                    column[i] = inside ? load(image + (static_cast<size_t>(y) * of.width + x) * of.c_in + c) : Register{};
                }
                to_frequencies(column, transformed);
                for (int i = 0; i < 6; i++) half[i][j] = transformed[i];
            }
            for (int i = 0; i < 6; i++) {
                Register row[6];
                to_frequencies(half[i], row);
                for (int j = 0; j < 6; j++) store(spectra + (static_cast<size_t>(i * 6 + j) * count + t) * stride + c, row[j]);
            }
        }
    }
}

// Multiplies N tiles by 2 * LANES output channels of one frequency. Both factors stay in registers.
template <int N>
static void multiply(const float* spectra, size_t spectra_stride, const float* weight, size_t panel, float* products,
                     size_t products_stride, int c_in) {
    Register sums[N][2] = {};
    // The next register of channels: in the same panel of 16, or in the next one where a register is a whole panel.
    const float* second = weight + (LANES < PANEL ? LANES : panel);
    for (int c = 0; c < c_in; c++) {
        // Weights are read once an image and come from far away. The hardware's own prefetching ends at each page.
        __builtin_prefetch(weight + (c + AHEAD) * PANEL);
        if (LANES == PANEL) __builtin_prefetch(second + (c + AHEAD) * PANEL);
        const Register first_channels = load(weight + c * PANEL), second_channels = load(second + c * PANEL);
#pragma GCC unroll 12
        for (int n = 0; n < N; n++) {
            const float value = spectra[n * spectra_stride + c];
            sums[n][0] += first_channels * value;
            sums[n][1] += second_channels * value;
        }
    }
    for (int n = 0; n < N; n++) {
        store(products + n * products_stride, sums[n][0]);
        store(products + n * products_stride + LANES, sums[n][1]);
    }
}

template <int N>
static void multiply_some(int count, const float* spectra, size_t spectra_stride, const float* weight, size_t panel,
                          float* products, size_t products_stride, int c_in) {
    if (count == N) return multiply<N>(spectra, spectra_stride, weight, panel, products, products_stride, c_in);
    if constexpr (N > 1)
        multiply_some<N - 1>(count, spectra, spectra_stride, weight, panel, products, products_stride, c_in);
}

// Writes [frequency][tile][output channel of the range]. Each frequency's weights are read once.
static void multiply_all(const Convolution& of, Range channels, int count, const float* spectra, size_t spectra_stride,
                         float* products, size_t products_stride) {
    // Blocks of nearly equal size: a last one of a single tile would cost as much as a full one.
    const int blocks = (count + ROWS - 1) / ROWS;
    for (int frequency = 0; frequency < FREQUENCIES; frequency++)
        for (int k = channels.first; k < channels.end; k += 2 * LANES) {
            const float* weight = of.weight + (static_cast<size_t>(frequency) * of.c_out + k) * of.c_in;
            for (int block = 0; block < blocks; block++) {
                const int first = count * block / blocks, end = count * (block + 1) / blocks;
                const size_t tile = static_cast<size_t>(frequency) * count + first;
                multiply_some<ROWS>(end - first, spectra + tile * spectra_stride, spectra_stride, weight,
                                    static_cast<size_t>(PANEL) * of.c_in,
                                    products + tile * products_stride + k - channels.first, products_stride, of.c_in);
            }
        }
}

// Writes the tiles' pixels that lie inside the map, with bias, residual and ReLU.
static void transform_output(const Convolution& of, Range channels, const Tile* tiles, int count, const float* products,
                             size_t stride) {
    for (int t = 0; t < count; t++) {
        const Tile& tile = tiles[t];
        const size_t image = static_cast<size_t>(tile.image) * of.height * of.width;
        for (int k = channels.first; k < channels.end; k += LANES) {
            Register half[4][6];
            for (int j = 0; j < 6; j++) {
                Register column[6], transformed[4];
                for (int i = 0; i < 6; i++)
                    column[i] = load(products + (static_cast<size_t>(i * 6 + j) * count + t) * stride + k - channels.first);
                to_pixels(column, transformed);
                for (int i = 0; i < 4; i++) half[i][j] = transformed[i];
            }
            const Register bias = load(of.bias + k);
            for (int i = 0; i < 4; i++) {
                const int y = tile.y + i * of.dilation;
                Register row[4];
                to_pixels(half[i], row);
                for (int j = 0; j < 4; j++) {
                    const int x = tile.x + j * of.dilation;
                    if (y >= of.height || x >= of.width) continue;
                    const size_t at = (image + static_cast<size_t>(y) * of.width + x) * of.c_out + k;
                    Register value = row[j] + bias;
                    if (of.residual) value += load(of.residual + at);
                    // This way round NaN stays, as a sign that something is wrong.
                    if (of.relu) value = value < 0.0f ? Register{} : value;
                    store(of.out + at, value);
                }
            }
        }
    }
}

// Computes a range of output channels of some tiles.
static void convolve(const Convolution& of, Range channels, const Tile* tiles, int count, float* scratch) {
    const size_t spectra_stride = of.c_in + PADDING, products_stride = channels.end - channels.first + PADDING;
    float* products = scratch + FREQUENCIES * count * spectra_stride;
    transform_input(of, tiles, count, scratch, spectra_stride);
    multiply_all(of, channels, count, scratch, spectra_stride, products, products_stride);
    transform_output(of, channels, tiles, count, products, products_stride);
}
