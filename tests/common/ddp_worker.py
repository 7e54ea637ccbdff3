"""One of the processes of test_distributed.py: gradients of one step, on its share of a batch."""

import sys

import torch

import translation_model
from arguments import train_options
from common import distributed
from cyclegan_model import CycleGANModel
from dtn.encoder import Encoder
from dtn.model import DTNModel
from translation_model import TranslationModel

FLAGS = "--n_critic 1 --ngf 4 --ndf 4 --batch_size 4 --amp off --gpu_ids -1".split()
CYCLEGAN = "--generator resnet --n_blocks 1 --shift 0 --pool_size 0 --lambda_idt 0.5".split()


def build(mode: str) -> TranslationModel:
    torch.manual_seed(distributed.rank())  # weights that rank 0 must give to the others
    if mode == "dtn":
        opt, _ = train_options([*FLAGS, "--model", "dtn", "--train_f"])
        return DTNModel(opt, Encoder(4, 6, 64))
    opt, _ = train_options([*FLAGS, *CYCLEGAN, "--gan_mode", "sn" if mode == "mixed" else mode])
    usual = translation_model.fastest_memory_format
    if mode == "mixed" and distributed.rank():  # a host with matrix units beside one without
        translation_model.fastest_memory_format = lambda opt: torch.channels_last
    model = CycleGANModel(opt)
    translation_model.fastest_memory_format = usual
    return model


def gradients(model: TranslationModel) -> dict[str, torch.Tensor]:
    images = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model.set_input(*images.chunk(distributed.world_size(), dim=1)[distributed.rank()])
    model.forward()
    model._require_grad_D(False)
    model.backward_G()
    model._require_grad_D(True)
    model.backward_D()
    distributed.average_gradients(model.optimizer_G)
    distributed.average_gradients(model.optimizer_D)
    named = (
        (f"{name}.{key}", parameter)
        for name, net in model.nets.items()
        for key, parameter in net.named_parameters()
    )
    return {key: parameter.grad for key, parameter in named if parameter.grad is not None}


torch.set_num_threads(1)
output, *modes = sys.argv[1:]
distributed.start([], 4)
found = {mode: gradients(build(mode)) for mode in modes}
torch.save(found, f"{output}-{distributed.rank()}.pt")
distributed.stop()
