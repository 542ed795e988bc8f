"""What is compared with what: the claims of the write-up, masks and retrieval, each as a difference of two members."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Does `arm` score more than `against`?

    Names are members, `out of fold: member`, `with neighbours: member`, or `ensemble: how`.
    """

    claim: int
    question: str
    arm: str
    against: str
    wrote: str  # what the write-up says or implies: "+", "-", "0" or "?"


BEFORE = "out of fold: "
BLEND = "ensemble: "
NEAR = "with neighbours: "
BLENDED = ("one", "gem", "concat", "attention", "three-equal-compute")
STAGE = "three-equal-compute/student"
COMPARISONS = (
    Comparison(1, "three stages, equal student epochs, from ImageNet", "three-equal-epochs", "one", "+"),
    Comparison(1, "three stages, equal total compute, from ImageNet", "three-equal-compute", "one", "+"),
    Comparison(1, "three stages, equal student epochs, from scratch", "scratch-three-equal-epochs", "scratch-one", "+"),
    Comparison(1, "three stages, equal total compute, from scratch", "scratch-three-equal-compute", "scratch-one", "+"),
    Comparison(2, "multi-head attention against average pooling", "attention", "one", "+"),
    Comparison(2, "GeM against average pooling", "gem", "one", "?"),
    Comparison(2, "average + max pooling against average pooling", "concat", "one", "?"),
    Comparison(3, "self-distillation, soft labels alone", "self", "one", "+"),
    Comparison(3, "self-distillation, half soft and half hard", "self-mixed", "one", "+"),
    Comparison(3, "soft labels of site b, then fine-tune; as many own epochs", "site-b", "one", "+"),
    Comparison(3, "soft labels of site b, then fine-tune; as many passes", "site-b", "one-long", "+"),
    Comparison(4, "soft labels sharpened with T = .8, against off", "self-sharpened", "self", "+"),
    Comparison(4, "dynamic temperature, against off", "self-dynamic", "self", "0"),
    Comparison(5, "rank mean against mean", f"{BLEND}rank", f"{BLEND}mean", "0"),
    Comparison(5, "power mean against mean", f"{BLEND}power", f"{BLEND}mean", "0"),
    Comparison(5, "weights fitted per label against mean", f"{BLEND}fitted", f"{BLEND}mean", "0"),
    Comparison(5, "with a stage-2 network in the mean", f"{BLEND}stages", f"{BLEND}mean", "-"),
    Comparison(6, "the fold mix-up, scored out of fold", f"{BEFORE}mixed-up", f"{BEFORE}three-equal-compute", "0"),
    Comparison(6, "the fold mix-up, on patients nobody saw", "mixed-up", "three-equal-compute", "0"),
    Comparison(7, "flips allowed", "flips", "one", "+"),
    Comparison(7, "the full augmentation against the light one", "full-augmentation", "one", "+"),
    Comparison(8, "line masks as supervision, against three stages", "multi-task", "three-equal-compute", "+"),
    Comparison(8, "line masks as supervision, against one stage", "multi-task", "one", "+"),
    Comparison(8, "line masks as input, against three stages", "two-step", "three-equal-compute", "+"),
    Comparison(8, "line masks as input, against one stage", "two-step", "one", "+"),
    Comparison(8, "the recommended recipe, against three stages", "recommended", "three-equal-compute", "?"),
    Comparison(8, "the recommended recipe, against one stage", "recommended", "one", "?"),
    Comparison(9, "neighbours' labels blended in, one stage", f"{NEAR}one", "one", "?"),
    Comparison(9, "neighbours' labels blended in, the recommended recipe", f"{NEAR}recommended", "recommended", "?"),
    Comparison(10, "line masks as supervision, twice the compute", "multi-task-long", "one-long", "+"),
    Comparison(10, "line masks as input, twice the compute", "two-step-long", "one-long", "+"),
    Comparison(10, "the recommended recipe, twice the compute", "recommended-long", "one-long", "?"),
)
CLAIMS = tuple(dict.fromkeys(comparison.claim for comparison in COMPARISONS))
