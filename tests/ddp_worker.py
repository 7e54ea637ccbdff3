"""One of the processes of test_distributed.py: gradients of one step, on its share of a batch."""

import sys

import torch

import distributed
from arguments import train_options
from cyclegan_model import CycleGANModel

torch.set_num_threads(1)
mode, output = sys.argv[1:]
flags = "--n_critic 1 --ngf 4 --ndf 4 --n_blocks 1 --batch_size 4 --pool_size 0 --lambda_idt 0.5"
opt, _ = train_options([*flags.split(), "--gan_mode", mode, "--amp", "off", "--gpu_ids", "-1"])
distributed.start(opt.gpu_ids, opt.batch_size)
model = CycleGANModel(opt)
images = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
share = images.chunk(distributed.world_size(), dim=1)[distributed.rank()]
model.set_input(*share)
model.forward()
model._require_grad_D(False)
model.backward_G()
model._require_grad_D(True)
model.backward_D("A")
model.backward_D("B")
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
