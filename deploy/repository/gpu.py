"""Write the repository for NVIDIA's server on a GPU: DALI decodes, a TensorRT plan infers, an ensemble joins them.

Everything here can be written and checked without a GPU, except for the plan itself.
"""

import shutil
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as schema

from data_pipeline import serialize_serving
from data_pipeline.files import whole_folder
from deploy.contract import NETWORK_MODEL, PIPELINE_MODEL, PREPROCESSING_MODEL, Contract, sample_image
from deploy.engines.tensorrt_builder import batch_profiles
from deploy.files import GPU_DIRECTORY, VERSION, write_config
from deploy.repository import data_type, model_config

PLAN, DALI_GRAPH = "model.plan", "model.dali"
# Long enough for a burst to fill a batch, and short compared with an inference.
QUEUE_MICROSECONDS = 500
# One instance of the network copies while the other computes. DALI's own pipeline overlaps both, and its backend's
# documentation advises one instance a GPU.
INSTANCES = 2
WAITING = 256  # images that may wait for the network before the server refuses more
WARMUP_IMAGE = "sample.jpg"


def write_gpu_repository(output: Path, contract: Contract, plan: Path | None) -> Path:
    """Write `output/model_repository_gpu/` and return its path.

    An earlier one is replaced whole or not at all.

    Args:
        output: the build's folder.
        contract: what the models take and return.
        plan: a TensorRT engine that takes batches of 1 to max_batch, built for the server's GPU and TensorRT version.
            None leaves its place, `resformer_network/1/model.plan`, empty for a machine that can build it.
    """
    with whole_folder(output / GPU_DIRECTORY, replace=True) as repository:
        for config in (preprocessing_config(contract), network_config(contract), ensemble_config(contract)):
            # The server wants a version folder even of an ensemble, which has no file.
            (repository / config.name / VERSION).mkdir(parents=True)
            write_config(repository / config.name, config)
        preprocessing = repository / PREPROCESSING_MODEL
        serialize_serving(
            preprocessing / VERSION / DALI_GRAPH,
            contract.preprocessing,
            input_name=contract.encoded_image.name,
            max_batch=contract.max_batch,
            device="gpu",
        )
        # The server looks for a warm-up's input files in a folder of this name.
        (preprocessing / "warmup").mkdir()
        (preprocessing / "warmup" / WARMUP_IMAGE).write_bytes(sample_image())
        if plan:
            shutil.copyfile(plan, repository / NETWORK_MODEL / VERSION / PLAN)
    return output / GPU_DIRECTORY


def preprocessing_config(contract: Contract) -> schema.ModelConfig:
    """Configure the model that turns encoded images into the network's input, on the GPU's decoder."""
    config = model_config(PREPROCESSING_MODEL, contract.encoded_image, (contract.network_input,), contract)
    config.backend = "dali"
    # No dynamic batching: images of different requests would fail together with one that cannot be decoded.
    config.instance_group.add(kind=schema.ModelInstanceGroup.KIND_GPU, count=1)
    # A real image, because zeros or noise are no JPEG file.
    image = schema.ModelWarmup.Input(
        data_type=data_type(contract.encoded_image), dims=[len(sample_image())], input_data_file=WARMUP_IMAGE
    )
    config.model_warmup.add(name="one image", batch_size=1, inputs={contract.encoded_image.name: image})
    return config


def network_config(contract: Contract) -> schema.ModelConfig:
    """Configure the TensorRT plan: it gathers requests in batches, and runs each batch size as a CUDA graph."""
    source = contract.network_input
    config = model_config(NETWORK_MODEL, source, contract.outputs, contract)
    config.platform = "tensorrt_plan"
    config.default_model_filename = PLAN
    instances = config.instance_group.add(kind=schema.ModelInstanceGroup.KIND_GPU, count=INSTANCES)
    # The server takes, for each batch, the profile of the plan that fits it best.
    instances.profile.extend(str(number) for number, _ in enumerate(batch_profiles(contract.max_batch)))
    config.dynamic_batching.max_queue_delay_microseconds = QUEUE_MICROSECONDS
    # Decoding is faster than inference, and decoded images take GPU memory while they wait.
    config.dynamic_batching.default_queue_policy.max_queue_size = WAITING
    config.optimization.input_pinned_memory.enable = True
    config.optimization.output_pinned_memory.enable = True
    config.optimization.cuda.graphs = True
    zeros = schema.ModelWarmup.Input(data_type=data_type(source), dims=source.shape, zero_data=True)
    # A graph fixes its shapes, so each batch size has its own, recorded by a warm-up before the first request.
    for size in range(1, contract.max_batch + 1):
        graph = config.optimization.cuda.graph_spec.add(batch_size=size)
        graph.input[source.name].dim.extend(source.shape)
        config.model_warmup.add(name=f"batch of {size}", batch_size=size, inputs={source.name: zeros})
    return config


def ensemble_config(contract: Contract) -> schema.ModelConfig:
    """Configure `resformer`: both models joined inside the server, so that no decoded image crosses the wire."""
    config = model_config(PIPELINE_MODEL, contract.encoded_image, contract.outputs, contract)
    config.platform = "ensemble"
    between = contract.network_input.name
    # A model version of -1 is the latest.
    decode = config.ensemble_scheduling.step.add(model_name=PREPROCESSING_MODEL, model_version=-1)
    decode.input_map[contract.encoded_image.name] = contract.encoded_image.name
    decode.output_map[between] = between
    infer = config.ensemble_scheduling.step.add(model_name=NETWORK_MODEL, model_version=-1)
    infer.input_map[between] = between
    for spec in contract.outputs:
        infer.output_map[spec.name] = spec.name
    return config
