"""The script under FSDP on CPU, which accelerate keeps for accelerators: processes on CPU would go on with DDP."""

from accelerate.state import AcceleratorState, DistributedType, PartialState

from mmjepa import run_pathvqa

init = AcceleratorState.__init__


def init_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type


AcceleratorState.__init__ = init_with_fsdp

if __name__ == "__main__":
    run_pathvqa.main()
