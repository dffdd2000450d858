"""Every config key of this project, each with its unit, its choices and its source."""

from collections.abc import Callable

from smmcl.d2 import CfgNode

Extension = Callable[[CfgNode], None]
EXTENSIONS: list[Extension] = []  # functions that add keys of further parts


def extends_config(function: Extension) -> Extension:
    """Decorator of a function that adds the keys of a part of your own, see IMPORTS and `group`."""
    EXTENSIONS.append(function)
    return function


def add_smmcl_config(cfg: CfgNode) -> None:
    """Adds the keys of this project to Detectron2's own, whose defaults stay.

    A default here switches a part off where it can; the paper's recipe is configs/Base-SMMCL.yaml.
    """
    # Modules, or .py files, of your own to import before anything is built: they register parts.
    cfg.IMPORTS = []
    # Project of Weights & Biases to log scalars to, if that is installed; "" logs to files alone.
    cfg.TRACKING = CfgNode()
    cfg.TRACKING.WANDB = ""
    _add_input(cfg)
    _add_model(cfg)
    _add_contrast(cfg)
    _add_solver(cfg)
    _add_test(cfg)
    for extension in EXTENSIONS:
        extension(cfg)


def _add_input(cfg: CfgNode) -> None:
    _C = cfg
    # Broken pairs that a training replaces by others and lists in skipped.json; one more stops it.
    _C.DATALOADER.SKIP_BROKEN = 0
    # Sets whose pairs come along with the training pairs, without their labels, for methods that
    # learn from unlabeled pairs. None may be in DATASETS.TEST.
    _C.DATASETS.UNLABELED = ()
    # Channels of the auxiliary image: "L" one, "RGB" three (a single channel is repeated).
    _C.INPUT.AUXILIARY_FORMAT = "RGB"
    # Height and width in pixels of the training crop; smaller pairs are padded to it.
    _C.INPUT.CROP_SIZE = [480, 640]
    # Scales of the random resize before the crop, drawn uniformly.
    _C.INPUT.SCALES = [1.0]
    # Probability of a left-right flip.
    _C.INPUT.FLIP = 0.5
    # Photometric changes of the visible image in training: brightness, contrast and saturation by
    # factors within 1 +- STRENGTH; 0 is off.
    _C.INPUT.PHOTOMETRIC = CfgNode()
    _C.INPUT.PHOTOMETRIC.STRENGTH = 0.0
    # Probability of darkening the visible image, and how: "camera" (less light, and its noise),
    # "gamma" (a power of 2 to 6), or "darkener" (docs/lowlight.md).
    _C.INPUT.LOW_LIGHT = CfgNode()
    _C.INPUT.LOW_LIGHT.PROBABILITY = 0.0
    _C.INPUT.LOW_LIGHT.NAME = "camera"
    # Probability of corrupting one image of a pair, and the corruptions to choose from;
    # smmcl/data/appearance/corruption.py lists them.
    _C.INPUT.CORRUPTION = CfgNode()
    _C.INPUT.CORRUPTION.PROBABILITY = 0.0
    _C.INPUT.CORRUPTION.NAMES = ["missing"]
    # Which image of a pair to corrupt: "either" (drawn), "visible" or "auxiliary".
    _C.INPUT.CORRUPTION.IMAGE = "either"
    # Make the three changes above at test, too; what they draw then depends on the pair alone.
    _C.INPUT.CHANGED_AT_TEST = False
    # Controls of how much the model uses the auxiliary image: "swap" gives each pair that of
    # another pair, at test alone; "visible" replaces it by a copy of the visible image and "noise"
    # by uniform noise, in training and at test. "" is off.
    _C.INPUT.AUXILIARY_ABLATION = ""


def _add_model(cfg: CfgNode) -> None:
    _C = cfg
    # Prefixes of parameters that may remain unmatched between the model and MODEL.WEIGHTS, such as
    # the classifier when the classes change. Any other mismatch is an error.
    _C.MODEL.UNFILLED_WEIGHTS = []
    # With several GPUs: batch norm over the images of all of them, or of each one alone.
    _C.MODEL.SYNC_BATCH_NORM = True
    _C.MODEL.AUXILIARY = CfgNode()
    # MODEL.PIXEL_MEAN and MODEL.PIXEL_STD of the auxiliary image: one value per channel, 0..255.
    _C.MODEL.AUXILIARY.PIXEL_MEAN = [123.675, 116.28, 103.53]
    _C.MODEL.AUXILIARY.PIXEL_STD = [58.395, 57.12, 57.375]

    # Backend of torch.compile for the backbone, such as "inductor"; "" does not compile. A part
    # that fails to compile stops the run.
    _C.MODEL.COMPILE = ""
    _add_pair(cfg)
    _add_fusion(cfg)
    _add_head(cfg)
    # The meta-architecture "ImageClassifier": classes, the feature whose mean over places is
    # classified, and the share of the target that is spread over all classes.
    _C.MODEL.CLASSIFIER = CfgNode()
    _C.MODEL.CLASSIFIER.NUM_CLASSES = 10
    _C.MODEL.CLASSIFIER.IN_FEATURE = "res5"
    _C.MODEL.CLASSIFIER.LABEL_SMOOTHING = 0.0


def _add_pair(cfg: CfgNode) -> None:
    _C = cfg
    _C.MODEL.PAIR = CfgNode()
    for stream in ("VISIBLE", "AUXILIARY"):
        node = _C.MODEL.PAIR[stream] = CfgNode()
        # Network of the stream (docs/networks.md lists them), or with Detectron2
        # "build_resnet_backbone" as MODEL.RESNETS describes it, with OUT_FEATURES res2 to res5. ""
        # leaves out the stream, and so the fusion.
        node.NAME = ""
        # ImageNet weights to start from: a path, a URL, or package://NAME for the file of an
        # installed package (docs/networks.md lists those that fit); "" starts from random weights.
        # Read only by a new training without MODEL.WEIGHTS, since a checkpoint fills the whole
        # model.
        node.WEIGHTS = ""
        # Probability of dropping the last block's residual path; it rises linearly from 0.
        node.DROP_PATH_RATE = 0.0

    # Activation checkpointing: recompute the streams' blocks in the backward pass, do not store
    # their activations. Same numbers, much less memory, about a third more time.
    _C.MODEL.PAIR.RECOMPUTE = False
    # Freeze the streams' batch norms, statistics and affine parameters alike, as Detectron2's
    # FrozenBN does: for batches too small to take statistics from.
    _C.MODEL.PAIR.FREEZE_NORM = False


def _add_fusion(cfg: CfgNode) -> None:
    _C = cfg
    _C.MODEL.FUSION = CfgNode()
    # What the streams take from each other, and the fused feature: "CrossModalModulation" (Eqs.
    # 1-2), "PlainSum", or a rival's: "CMX", "SAGate", "AddToVisible" (RTFNet), "SEAdd" (ESANet),
    # "TokenFusionAdapter", "ChannelExchangeAdapter" (CEN). With MODEL.BACKBONE.NAME
    # "build_shared_backbone", the published "TokenFusion" (MiT) or "ChannelExchange" (ResNet).
    _C.MODEL.FUSION.NAME = "CrossModalModulation"
    # Factor on the features from the other stream: 1 in Eqs. 1-2, 0.5 in the authors' code.
    _C.MODEL.FUSION.SCALE = 0.5
    # SA-Gate's output ReLU, as published. It deletes half of the maps of MSCAN and MiT.
    _C.MODEL.FUSION.SAGATE_RELU = False
    # TokenFusion and CEN: the score of a place, 0 to 1, or the scale of a channel's norm below
    # which the other stream's values are taken (both released codes: 0.02).
    _C.MODEL.FUSION.THRESHOLD = 0.02
    # CEN: exchange all channels, as the released code does, or only the half that is penalized.
    _C.MODEL.FUSION.ALL_CHANNELS = False
    # Factor on the mean score (TokenFusion) or mean penalized scale (CEN), which makes them sparse.
    # The released codes weigh sums: by 1e-6, at MiT-B3, 6 pairs of 500x500 equal to 0.98, and by
    # three times 2e-4, at ResNet-101 equal to 4.9.
    _C.MODEL.FUSION.SPARSITY_WEIGHT = 1.0


def _add_head(cfg: CfgNode) -> None:
    _C = cfg
    # Probability of dropping a channel (of CONVS_DIM) before the classifier. Fused features that
    # are not in IN_FEATURES are not built.
    _C.MODEL.SEM_SEG_HEAD.DROPOUT = 0.1
    # Factor on the cross-entropy of each class; [] weights all classes equally.
    _C.MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS = []
    # Hard-pixel mining: average the cross-entropy over this share of each image's labeled pixels,
    # those with the highest loss; 1 takes all.
    _C.MODEL.SEM_SEG_HEAD.HARD_SHARE = 1.0
    _C.MODEL.SEM_SEG_HEAD.HAM = CfgNode()
    # Channels and rank of the matrix factorization, and its numbers of multiplicative updates.
    _C.MODEL.SEM_SEG_HEAD.HAM.CHANNELS = 512
    _C.MODEL.SEM_SEG_HEAD.HAM.RANK = 64
    _C.MODEL.SEM_SEG_HEAD.HAM.STEPS_TRAIN = 6
    _C.MODEL.SEM_SEG_HEAD.HAM.STEPS_TEST = 7


def _add_contrast(cfg: CfgNode) -> None:
    _C = cfg
    _C.MODEL.CONTRAST = CfgNode()
    # Contrastive branch, in training only: "SMMCL", "" for the baseline, or a rival:
    # "UnsupervisedContrast" (Meyer et al., IROS 2020), which takes the keys of the cross-modal
    # term, or "RegionContrast" (Hu et al., ICCV 2021), which takes those of the visible term.
    _C.MODEL.CONTRAST.NAME = ""

    _C.MODEL.SMMCL = CfgNode()
    # The visible and the auxiliary feature to contrast. The paper's are at stride 32; small crops
    # have too few cells there, so use res4 at stride 16.
    _C.MODEL.SMMCL.IN_FEATURES = ["res5_visible", "res5_auxiliary"]
    # Channels of the embeddings and of the projectors' hidden layers.
    _C.MODEL.SMMCL.EMBED_DIM = 256
    _C.MODEL.SMMCL.HIDDEN_DIM = 512
    # True contrasts the views of all processes, False those of each process alone.
    _C.MODEL.SMMCL.GATHER = False
    # Cross-modal term (Eqs. 3-4): its weight in the total loss (0 leaves it out) and temperature.
    _C.MODEL.SMMCL.CROSS_MODAL = CfgNode()
    _C.MODEL.SMMCL.CROSS_MODAL.WEIGHT = 0.2
    _C.MODEL.SMMCL.CROSS_MODAL.TEMPERATURE = 0.1
    # Also contrast auxiliary anchors with visible keys, and average the two directions.
    _C.MODEL.SMMCL.CROSS_MODAL.SYMMETRIC = False
    # Which keys of an anchor's class are its positives: "all", "other_place" (Eq. 4 literally) or
    # "other_index" (the authors' code).
    _C.MODEL.SMMCL.CROSS_MODAL.POSITIVES = "all"
    # Intra-modal terms (Eqs. 5-6): a weight each, one temperature.
    _C.MODEL.SMMCL.INTRA_MODAL = CfgNode()
    _C.MODEL.SMMCL.INTRA_MODAL.VISIBLE_WEIGHT = 0.2
    _C.MODEL.SMMCL.INTRA_MODAL.AUXILIARY_WEIGHT = 0.2
    _C.MODEL.SMMCL.INTRA_MODAL.TEMPERATURE = 0.1
    _C.MODEL.SMMCL.SAMPLER = CfgNode()
    # Cells that a class needs in an image to become an anchor set; maximum number of views per set;
    # maximum number of views in total.
    _C.MODEL.SMMCL.SAMPLER.MIN_VIEWS = 5
    _C.MODEL.SMMCL.SAMPLER.MAX_VIEWS = 300
    _C.MODEL.SMMCL.SAMPLER.MAX_FEATURES = 4800
    # True samples the same places in both images, False each its own (the authors' code).
    _C.MODEL.SMMCL.SAMPLER.SHARED_POSITIONS = False
    # Class regions of earlier batches that RegionContrast remembers, per class.
    _C.MODEL.REGION_CONTRAST = CfgNode()
    _C.MODEL.REGION_CONTRAST.MEMORY_SIZE = 100


def _add_solver(cfg: CfgNode) -> None:
    _C = cfg
    # AdamW's betas; its learning rate and decay are Detectron2's BASE_LR and WEIGHT_DECAY.
    _C.SOLVER.BETAS = [0.9, 0.999]
    # Length of the run and of its warm-up in epochs, used if MAX_ITER is 0: the iterations then
    # follow from the number of pairs and IMS_PER_BATCH.
    _C.SOLVER.EPOCHS = 0
    _C.SOLVER.WARMUP_EPOCHS = 0
    # How many numbered checkpoints to keep, the newest ones; 0 keeps all. CHECKPOINT_PERIOD sets
    # how often one is written.
    _C.SOLVER.CHECKPOINTS_KEPT = 3
    # Linear warm-up from WARMUP_FACTOR x BASE_LR, then a factor on BASE_LR: "WarmupPolyLR" is
    # (1 - i / MAX_ITER) ^ POLY_POWER, "WarmupCosineLR" is (1 + cos(pi i / MAX_ITER)) / 2. The
    # optimizer is always AdamW.
    _C.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    _C.SOLVER.POLY_POWER = 0.9
    # Micro-batches per step, so that a small GPU can train with the paper's batch of 16.
    # IMS_PER_BATCH stays the batch of a step; learning rate, epochs and data order do not change.
    _C.SOLVER.ACCUMULATION = 1
    # Data type of Detectron2's SOLVER.AMP.ENABLED: "bfloat16", "float16" (with loss scaling), or
    # "auto", which is float16 on GPUs before Ampere and bfloat16 elsewhere. On a CPU without
    # amx_bf16 or avx512_bf16, bfloat16 is slower than float32.
    _C.SOLVER.AMP.DTYPE = "auto"
    # Decay of a moving average of the weights for evaluation, such as 0.999; 0 keeps no average.
    _C.SOLVER.AVERAGE_DECAY = 0.0
    # Factor on the streams' learning rate, such as 0.1 to stay near their ImageNet weights.
    _C.SOLVER.STREAMS_LR_FACTOR = 1.0
    # Keep MSCAN's layer scales at their initial values, as the authors' optimizer did.
    _C.SOLVER.FREEZE_LAYER_SCALE = False


def _add_test(cfg: CfgNode) -> None:
    _C = cfg
    # Which classes the mean includes: "present" those in the ground truth or the prediction,
    # "truth" those in the ground truth (Detectron2's rule), "zero" all, absent ones as 0.
    _C.TEST.ABSENT_CLASSES = "present"
    # Sliding-window evaluation: windows of SIZE (height, width) pixels that overlap by a share of
    # at least OVERLAP, BATCH_SIZE at a time. False evaluates the whole image at once.
    _C.TEST.SLIDING = CfgNode()
    _C.TEST.SLIDING.ENABLED = False
    _C.TEST.SLIDING.SIZE = [480, 640]
    _C.TEST.SLIDING.OVERLAP = 1.0 / 3.0
    _C.TEST.SLIDING.BATCH_SIZE = 1
    # Test-time augmentation, by Detectron2's TEST.AUG.ENABLED and FLIP: the scales to use, and what
    # is summed: "softmax" probabilities, or "exp" of the logits as the authors do.
    _C.TEST.AUG.SCALES = [0.75, 1.0, 1.25]
    _C.TEST.AUG.SUM = "softmax"
    # Number of fixed draws of the Hamburger bases to evaluate with. Above 1, scores are means over
    # the draws, and "<task>_spread" has their standard deviations.
    _C.TEST.BASES_DRAWS = 1
    # Evaluate in mixed precision (SOLVER.AMP.DTYPE), however the model was trained.
    _C.TEST.AMP = False
    # Score that selects model_best.pth, such as "sem_seg/mIoU", or "mfnet_val/sem_seg/mIoU" with
    # several sets in DATASETS.TEST. Only a validation set may select. "" writes no model_best.pth.
    _C.TEST.BEST_METRIC = ""
    # Folder under OUTPUT_DIR for predicted label images in the dataset's own ids; "" saves none.
    _C.TEST.SAVE_PREDICTIONS = ""
