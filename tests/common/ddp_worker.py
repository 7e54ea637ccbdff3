"""One of the processes of test_distributed.py: gradients of one step, on its share of a batch."""

import sys

import torch

import translation_model
from arguments import train_options
from common import distributed
from cyclegan_model import CycleGANModel
from dtn.encoder import Encoder
from dtn.model import DTNModel

torch.set_num_threads(1)
mode, output = sys.argv[1:]
flags = "--n_critic 1 --ngf 4 --ndf 4 --batch_size 4 --amp off --gpu_ids -1".split()
if mode == "dtn":
    opt, _ = train_options([*flags, "--model", "dtn", "--train_f"])
else:
    flags += "--generator resnet --n_blocks 1 --shift 0 --pool_size 0 --lambda_idt 0.5".split()
    flags += ["--gan_mode"]
    opt, _ = train_options([*flags, "sn" if mode == "mixed" else mode])
distributed.start(opt.gpu_ids, opt.batch_size)
if mode == "mixed" and distributed.rank():  # a host with matrix units beside one without
    translation_model.fastest_memory_format = lambda opt: torch.channels_last
torch.manual_seed(distributed.rank())  # weights that rank 0 must give to the others
model = DTNModel(opt, Encoder(4, 6, 64)) if mode == "dtn" else CycleGANModel(opt)
images = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
share = images.chunk(distributed.world_size(), dim=1)[distributed.rank()]
model.set_input(*share)
model.forward()
model._require_grad_D(False)
model.backward_G()
model._require_grad_D(True)
model.backward_D()
distributed.average_gradients(model.optimizer_G)
distributed.average_gradients(model.optimizer_D)
gradients = {
    f"{name}.{key}": p.grad
    for name, net in model.nets.items()
    for key, p in net.named_parameters()
    if p.grad is not None
}
torch.save(gradients, f"{output}-{distributed.rank()}.pt")
distributed.stop()
