"""synthetic_night.yaml as a LazyConfig, for Detectron2's own tools/lazyconfig_train_net.py.

Command: PYTHONPATH=. python DETECTRON2/tools/lazyconfig_train_net.py \
    --config-file configs/lazy/synthetic_night.py train.output_dir=output/lazy
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.solver import get_default_optimizer_params

from smmcl.data.datasets.build import agreed_metadata
from smmcl.data.format import AuxiliaryFormat
from smmcl.data.mapper import MultiModalDatasetMapper
from smmcl.data.reader import PairReader
from smmcl.engine.solver import warmup_poly
from smmcl.evaluation.sem_seg import PairSemSegEvaluator
from smmcl.modeling.backbone.pair import STAGES, PairBackbone
from smmcl.modeling.contrastive.branch import SMMCL
from smmcl.modeling.fusion.cross_modal import CrossModalModulation
from smmcl.modeling.head.ham_head import HamHead
from smmcl.modeling.segmentor import MultiModalSegmentor
from smmcl.modeling.streams import mscan
from smmcl.modeling.streams.base import build_stream

TRAIN, TEST = "synthetic_night_train", "synthetic_night_val"
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
WIDTHS, NUM_CLASSES = mscan.SIZES["mscan_t"]["widths"], 9
READ = STAGES[1:]
facts = agreed_metadata([TRAIN, TEST])

model = L(MultiModalSegmentor)(
    backbone=L(PairBackbone)(
        visible=L(build_stream)(name="mscan_t"),
        auxiliary=L(build_stream)(name="mscan_t"),
        fusions=[
            L(CrossModalModulation)(
                visible_width=width, auxiliary_width=width, fused_width=width, is_read=name in READ
            )
            for name, width in zip(STAGES, WIDTHS, strict=True)
        ],
    ),
    sem_seg_head=L(HamHead)(
        in_features=list(READ), in_channels=list(WIDTHS[1:]), channels=128, num_classes=NUM_CLASSES,
        dropout=0.1, ignore_value=255, ham_channels=128, rank=16, steps_train=6, steps_test=7,
    ),
    contrast=L(SMMCL)(
        in_features=["res4_visible", "res4_auxiliary"], channels=[WIDTHS[2], WIDTHS[2]],
        hidden_dim=128, embed_dim=64, num_classes=NUM_CLASSES,
        weights={"cross": 0.2, "visible": 0.2, "auxiliary": 0.2},
        loss={"cross_temperature": 0.1, "intra_temperature": 0.1, "positives": "all",
              "is_symmetric": False},
        limits={"min_views": 5, "max_views": 300, "max_features": 4800},
        has_shared_positions=False, is_gathered=False,
    ),
    pixel_mean=MEAN, pixel_std=STD, auxiliary_mean=MEAN, auxiliary_std=STD,
)  # fmt: skip

mapper = L(MultiModalDatasetMapper)(
    is_train=True, crop_size=[128, 160], scales=[1.0, 1.25, 1.5], flip_probability=0.5, seed=0,
    reader=L(PairReader)(
        format=L(AuxiliaryFormat)(**facts.auxiliary), channels=3, num_classes=NUM_CLASSES,
        label_offset=facts.label_offset, stored_ignore=facts.stored_ignore,
        ignore=facts.ignore_label,
    ),
)  # fmt: skip
dataloader = {
    "train": L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names=TRAIN), mapper=mapper, total_batch_size=8,
        aspect_ratio_grouping=False, num_workers=2,
    ),
    "test": L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names=TEST, filter_empty=False),
        mapper={**mapper, "is_train": False}, num_workers=2,
    ),
    "evaluator": L(PairSemSegEvaluator)(dataset_name=TEST),
}  # fmt: skip

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(
        base_lr="${..lr}", weight_decay="${..weight_decay}", weight_decay_norm=0.0,
        bias_lr_factor=1.0, weight_decay_bias=0.0,
        overrides={name: {"weight_decay": 0.0} for name in ("layer_scale_1", "layer_scale_2")},
    ),
    lr=0.001, weight_decay=0.01, betas=[0.9, 0.999],
)  # fmt: skip
lr_multiplier = L(warmup_poly)(
    max_iter="${train.max_iter}", warmup_iters=30, warmup_factor=0.0, power=0.9
)
train = {
    "output_dir": "output/lazy_synthetic_night",
    "init_checkpoint": "",
    "max_iter": 300,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False},
    "checkpointer": {"period": 100, "max_to_keep": 3},
    "eval_period": 0,
    "log_period": 20,
    "device": "cpu",
}
