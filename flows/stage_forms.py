"""What each stage may be told, and what it is for, in words for people; loads nothing heavy."""

_DATA = ("preset", "data", "rules_preset", "rules", "models")
_CAPTION = (*_DATA, "captioner", "max_failed_share", "max_failed", "precision")
_TRAIN = (*_CAPTION, "seed", "train_steps")
_FINETUNE = (*_TRAIN, "style", "trigger")
_EVALUATE = (*_FINETUNE, "guidance", "num_images")
_GATE = (*_EVALUATE, "name", "gate")
FIELDS = {
    "prepare": (*_DATA, "precision"),
    "curate": _DATA,
    "caption": _CAPTION,
    "encode": _CAPTION,
    "train": _TRAIN,
    "rectify": _TRAIN,
    "finetune": _FINETUNE,
    "evaluate": _EVALUATE,
    "gate": _GATE,
    "register": _GATE,
}
"""What each stage's form asks for: what the stage and those before it depend on."""
SAID = {
    "prepare": "Train the embedded parts: autoencoder, captioner and what judges. Later runs reuse them.",
    "curate": "Read the data and keep what is fit to learn from; the run shows what was dropped and why.",
    "caption": "Curate, then write captions for the images that are kept.",
    "encode": "Curate and caption, then turn images into latents and captions into tokens.",
    "train": "Train the base model, with all it needs before; nothing is evaluated or registered.",
    "rectify": "Train the base model and straighten it into the few-step model.",
    "finetune": "Train the base model and a LoRA of a style on it.",
    "evaluate": "Train and judge a model; it gets no version, and the gate is not asked.",
    "gate": "Train and judge a model, and ask the gate what it would say; nothing is registered.",
    "register": "Run the whole chain; of what has run before nothing runs again.",
}
