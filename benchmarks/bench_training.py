"""Compares a training step of this project, of its row-by-row form and of two stock models; and how it scales.

python benchmarks/bench_training.py [--size tiny] [--steps 2] [--scaling] [--compile] [--json]
"""

import tempfile

import torch
from bench_data import data_waits, make_data
from measuring import (
    DEVICE,
    MatrixProducts,
    count_flops_and_peak,
    environment,
    interleaved_seconds,
    parse_arguments,
    peak_bytes,
    say,
    seconds,
    show,
)
from peers import (
    BLIP,
    PROJECT,
    ROW_BY_ROW,
    SHARING_ENCODER_DECODER,
    SIZES,
    VISION_ENCODER_DECODER,
    Size,
    TrainingStep,
    make_models,
    make_optimizer,
    random_batch,
)

QUESTIONS_PER_IMAGE = 8
PROJECT_AT_1 = f"{PROJECT}, 1 question per image"


def compare_all(
    size: Size, own: TrainingStep, own_forms: dict[str, TrainingStep], batch: dict, rounds: int
) -> tuple[list[dict], dict[str, float]]:
    """One row per model, and how many times as long each one's step takes as that of this project.

    Beside this project there is one stock model at a time: memory for all of them and their optimizers is rare.
    """
    products = MatrixProducts(size.questions * size.image_tokens, size.vision["hidden_size"])
    rows, slower = compare_peers({PROJECT: own, **own_forms}, products, rounds)
    for stock in (VISION_ENCODER_DECODER, BLIP):
        (_, *others), others_slower = compare_peers(
            {PROJECT: own, **stock_steps(size, stock, batch)}, products, rounds
        )
        rows, slower = [*rows, *others], others_slower | slower
    return rows, slower


def stock_steps(size: Size, stock: str, batch: dict) -> dict[str, TrainingStep]:
    """The steps of a stock model, in all its forms."""
    models = make_models(size, [stock])
    optimizer = make_optimizer(models[stock])
    return {name: TrainingStep(name, model, optimizer, batch) for name, model in models.items()}


def compare_peers(
    steps: dict[str, TrainingStep], products: MatrixProducts, rounds: int
) -> tuple[list[dict], dict[str, float]]:
    """`compare_all` for what takes turns. Each first takes one step in which operations and memory are counted."""
    counts = {}
    for name, step in steps.items():
        counts[name] = count_flops_and_peak(step.forward_backward)
        step.update()
        say(f"counted, {name}: {counts[name][0] / 1e12:.3g} TFLOP, {counts[name][1] / 1e9:.3g} GB")
    medians = interleaved_seconds({**steps, "matrix products": products}, rounds)
    rate = products.flops / medians["matrix products"]
    rows = [
        {
            "peer": name,
            "seconds per step": medians[name],
            "questions/s": step.questions / medians[name],
            "TFLOP per step": counts[name][0] / 1e12,
            "MFU": counts[name][0] / medians[name] / rate,
            "peak GB": (step.state_bytes + counts[name][1]) / 1e9,
            "GB added by the step": counts[name][1] / 1e9,
        }
        for name, step in steps.items()
    ]
    return rows, {name: medians[name] / medians[PROJECT] for name in steps}


def data_wait(size: Size, step: TrainingStep, rounds: int) -> list[dict]:
    """One row per number of loader processes: the share of training time in which the step waits for its batch."""
    with tempfile.TemporaryDirectory() as folder:
        data, processor = make_data(folder, size.image_size, size.questions * (rounds + 2))

        def train(batch: dict[str, torch.Tensor]) -> None:
            step.inputs = {**batch, "return_logits": False}
            step()

        return data_waits(data, processor, size.questions, train, rounds)


def scaling_rows(size: Size, model, optimizer, rounds: int) -> list[dict]:
    """Compares with the row-by-row form by questions per image, batch and image size; one changes at a time."""
    points = [{"questions_per_image": number} for number in (1, 2, 4, 8, 16)]
    points += [{"questions": size.questions * factor // 2} for factor in (1, 4)]
    side = size.vision["patch_size"]
    points += [{"image_size": size.image_size * factor // 2 // side * side} for factor in (1, 3)]
    rows = []
    for point in points:
        point = {"questions_per_image": QUESTIONS_PER_IMAGE, "questions": size.questions, **point}
        batch = random_batch(size, **point)
        steps = {name: TrainingStep(name, model, optimizer, batch) for name in (PROJECT, ROW_BY_ROW)}
        peaks = {}
        for name, step in steps.items():
            peaks[name] = step.state_bytes + peak_bytes(step.forward_backward)
            step.update()
        medians = interleaved_seconds(steps, rounds)
        rows.append(
            {
                "questions per image": point["questions_per_image"],
                "questions per step": point["questions"],
                "image size": point.get("image_size", size.image_size),
                "questions/s": point["questions"] / medians[PROJECT],
                "row by row, questions/s": point["questions"] / medians[ROW_BY_ROW],
                "speedup": medians[ROW_BY_ROW] / medians[PROJECT],
                "peak memory ratio": peaks[PROJECT] / peaks[ROW_BY_ROW],
            }
        )
    return rows


def compile_row(size: Size, model, optimizer, rounds: int) -> dict:
    """Compares the step with the compiled step, as the Trainer's `--torch_compile` compiles it."""
    batch = random_batch(size, QUESTIONS_PER_IMAGE)
    plain, compiled = (TrainingStep(PROJECT, form, optimizer, batch) for form in (model, torch.compile(model)))
    plain()
    first = seconds(compiled)
    medians = interleaved_seconds({"plain": plain, "compiled": compiled}, rounds)
    return {
        "seconds per step": medians["plain"],
        "compiled": medians["compiled"],
        "speedup": medians["plain"] / medians["compiled"],
        "seconds of the first compiled step": first,
    }


def process_rows(size_name: str, rounds: int) -> list[dict]:
    """Questions per second of all processes together; under DDP each has its own batch."""
    available = torch.cuda.device_count() if DEVICE == "cuda" else torch.get_num_threads()
    rows = []
    for processes in sorted({1, 2, available} & set(range(1, available + 1))):
        with tempfile.TemporaryDirectory() as folder:
            arguments = (processes, f"file://{folder}/meeting", f"{folder}/seconds", size_name, rounds)
            torch.multiprocessing.spawn(train_in_process, arguments, nprocs=processes)
            median = torch.load(f"{folder}/seconds")
        rows.append({"processes": processes, "questions/s": processes * SIZES[size_name].questions / median})
    return rows


def train_in_process(rank: int, processes: int, meeting: str, result: str, size_name: str, rounds: int) -> None:
    """One process of `process_rows`; the first writes the median seconds of a step into the file `result`."""
    if DEVICE == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=processes)
    size = SIZES[size_name]
    model = make_models(size, [PROJECT])[PROJECT]
    step = TrainingStep(PROJECT, model, make_optimizer(model), random_batch(size, QUESTIONS_PER_IMAGE))
    step.model = torch.nn.parallel.DistributedDataParallel(model)
    step()
    median = interleaved_seconds({"step": step}, rounds)["step"]
    if rank == 0:
        torch.save(median, result)
    torch.distributed.destroy_process_group()


def measure(size_name: str, rounds: int, scaling: bool = False, compiled: bool = False) -> dict:
    """Speed-ups, MFU, memory ratios and data wait, with the rows that they are computed from."""
    size = SIZES[size_name]
    model = make_models(size, [PROJECT])[PROJECT]
    optimizer = make_optimizer(model)
    batch = random_batch(size, QUESTIONS_PER_IMAGE)
    own, row_by_row = (TrainingStep(name, model, optimizer, batch) for name in (PROJECT, ROW_BY_ROW))
    at_1 = TrainingStep(PROJECT, model, optimizer, random_batch(size, 1))
    peers, speedups = compare_all(size, own, {ROW_BY_ROW: row_by_row, PROJECT_AT_1: at_1}, batch, rounds)
    waits = data_wait(size, own, rounds)

    row = {row["peer"]: row for row in peers}
    results = {
        "environment": environment(size_name),
        "speedup_vs_row_by_row": speedups[ROW_BY_ROW],
        "speedup_vs_row_by_row_at_1": speedups[ROW_BY_ROW] / speedups[PROJECT_AT_1],
        "speedup_vs_sharing_encoder_decoder": speedups[SHARING_ENCODER_DECODER],
        "speedup_vs_vision_encoder_decoder": speedups[VISION_ENCODER_DECODER],
        "speedup_vs_blip": speedups[BLIP],
        "mfu": row[PROJECT]["MFU"],
        "peak_memory_ratio": row[PROJECT]["peak GB"] / row[ROW_BY_ROW]["peak GB"],
        "step_memory_ratio": row[PROJECT]["GB added by the step"] / row[ROW_BY_ROW]["GB added by the step"],
        "data_wait_share": min(row["data wait share"] for row in waits),
        "peers": peers,
        "data": waits,
    }
    if compiled:
        results["compile"] = [compile_row(size, model, optimizer, rounds)]
    if scaling:
        results["scaling"] = scaling_rows(size, model, optimizer, rounds)
        results["processes"] = process_rows(size_name, rounds)
    return results


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    flags = {
        "scaling": "also vary batch, image size, questions and processes",
        "compile": "also compare with the step compiled by torch.compile",
    }
    arguments = parse_arguments("Training steps of this project and its peers.", argv, flags, rounds=2)
    results = measure(arguments.size, arguments.steps, arguments.scaling, arguments.compile)
    show(results, arguments.json)


if __name__ == "__main__":
    main()
