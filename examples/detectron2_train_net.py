"""A training script of Detectron2's own parts: the lines with `sm` are all that pairs need."""

from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch

import smmcl.register as sm


class Trainer(DefaultTrainer):
    build_optimizer = staticmethod(sm.build_optimizer)
    build_lr_scheduler = staticmethod(sm.build_lr_scheduler)
    build_evaluator = staticmethod(sm.PairSemSegEvaluator)

    @staticmethod
    def build_train_loader(cfg):
        return build_detection_train_loader(cfg, mapper=sm.MultiModalDatasetMapper(cfg, True))

    @staticmethod
    def build_test_loader(cfg, name):
        return build_detection_test_loader(cfg, name, mapper=sm.MultiModalDatasetMapper(cfg, False))


def main(args):
    cfg = get_cfg()
    sm.add_smmcl_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg = sm.with_iterations(cfg)  # SOLVER.MAX_ITER, if 0, from SOLVER.EPOCHS
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    if not (args.resume or args.eval_only or cfg.MODEL.WEIGHTS):
        sm.load_streams(cfg, trainer.checkpointer.model)  # from MODEL.PAIR.*.WEIGHTS
    trainer.resume_or_load(resume=args.resume)
    return trainer.test(cfg, trainer.model) if args.eval_only else trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, (args,))
