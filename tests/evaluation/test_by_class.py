"""distrib.evaluation.by_class: what became of each class, of the images that every attack was asked for."""

from dataclasses import replace

from shards import evaluation_of, shard

from distrib.evaluation.by_class import figures_by_class, images_in_words
from distrib.evaluation.evidence import NO_CLASS, Evidence, gather


def evidence(**changes) -> Evidence:
    """Images 0 to 5 of the classes 0 1 2 0 1 2; FGSM is asked for the first five alone."""
    plain = shard(
        "110111", label=[0, 1, 2, 0, 1, 2], predicted=[0, 1, 0, 0, 1, 2], attacked=[0, 2, 1, 2, -1, 2],
        fgsm="11001.", pgd_20="110000",
    )  # fmt: skip
    return replace(gather([replace(plain, **changes)], evaluation_of(), 6, 3), classes=("cat", "dog", "cow"))


def test_each_class_counts_its_own_images_and_what_their_worst_ones_are_taken_for():
    cat, dog, cow = figures_by_class(evidence())
    assert (cat.name, cat.n, cat.clean, cat.robust, cat.taken_for) == ("cat", 2, 2, 1, (("cow", 1),))
    assert (dog.n, dog.clean, dog.robust, dog.taken_for) == (2, 2, 1, ((NO_CLASS, 1),))
    assert (cow.n, cow.clean, cow.robust, cow.taken_for) == (1, 0, 0, (("dog", 1),)), "one was not asked for FGSM"
    assert (cat.clean_accuracy, cat.robust_accuracy) == (1, 0.5)


def test_all_classes_together_are_the_worst_case():
    found = figures_by_class(evidence())
    assert sum(one.n for one in found) == 5 and sum(one.robust for one in found) == 2
    assert all(one.robust + sum(count for _, count in one.taken_for) == one.n for one in found)


def test_the_commonest_confusion_comes_first_and_a_class_without_a_name_is_a_number():
    plain = shard("1111", label=[7] * 4, predicted=[7] * 4, attacked=[3, 5, 5, 7], fgsm="0001", pgd_20="0001")
    (seven,) = figures_by_class(gather([plain], evaluation_of(), 4, 10))
    assert (seven.name, seven.taken_for) == ("7", (("5", 2), ("3", 1)))


def test_an_image_in_words_is_its_class_and_what_it_is_taken_for():
    found = images_in_words(evidence(index=[10, 11, 12, 13, 14, 15]))
    assert found == {
        10: "cat", 11: "dog, taken for cow", 12: "cow, taken for dog", 13: "cat, taken for cow",
        14: f"dog, taken for {NO_CLASS}", 15: "cow",
    }  # fmt: skip


def test_of_many_classes_each_keeps_its_commonest_confusions_alone():
    plain = shard(
        "1" * 12, label=[0] * 12, predicted=[0] * 12, attacked=list(range(1, 13)), fgsm="0" * 12, pgd_20="0" * 12
    )
    for classes, kept in ((20, 12), (21, 5)):
        (first,) = figures_by_class(gather([plain], evaluation_of(), 12, classes))
        assert len(first.taken_for) == kept and first.robust == 0
