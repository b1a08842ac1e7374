"""MMJepa answers questions about pathology images.

Importing the package makes it known to transformers' Auto classes, which then load its checkpoints with this code and
without asking whether the code inside the checkpoint may be run.
"""

import transformers

from .configuration_mmjepa import AUTO_MODEL_CLASSES, MMJepaConfig
from .modeling_mmjepa import MMJepaForConditionalGeneration
from .processing_mmjepa import MMJepaProcessor

# Under its own name alone: pytest imports the root a second time, by the name of the folder that it lies in.
if __name__ == "mmjepa":
    transformers.AutoConfig.register(MMJepaConfig.model_type, MMJepaConfig)
    transformers.AutoProcessor.register(MMJepaConfig, MMJepaProcessor)
    for model_class in AUTO_MODEL_CLASSES:
        getattr(transformers, model_class).register(MMJepaConfig, MMJepaForConditionalGeneration)

__all__ = ["MMJepaConfig", "MMJepaForConditionalGeneration", "MMJepaProcessor"]
