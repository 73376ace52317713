# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
import pytest
from detection_files import make_categories

from dito.datasets import build_category_table


def test_classes_come_from_the_file_in_order_of_id():
    categories = make_categories(['a', 'b', 'c'], 'rcf')[::-1]
    table = build_category_table(categories)
    assert table.names == ('a', 'b', 'c')
    assert table.ids == (1, 2, 3)
    assert table.frequency == ('r', 'c', 'f')
    assert table.novel_classes == ('a',)
    assert table.base_classes == ('b', 'c')


def test_ids_follow_the_names_whatever_order_the_file_has():
    categories = make_categories(['a', 'b', 'c', 'd'])
    table = build_category_table(categories, classes=['d', 'a', 'c'])
    assert table.names == ('d', 'a', 'c')
    assert table.ids == (4, 1, 3)
    assert table.novel_classes == ()


def test_base_split_drops_rare_classes_from_a_given_list_too():
    categories = make_categories(['a', 'b', 'c'], 'frc')
    table = build_category_table(
        categories, split='base', classes=['c', 'b', 'a']
    )
    assert table.names == ('c', 'a')
    assert table.ids == (3, 1)
    assert table.novel_classes == ()


def test_novel_split_has_only_rare_classes():
    categories = make_categories(['a', 'b', 'c'], 'rcr')
    table = build_category_table(categories, split='novel')
    assert table.names == table.novel_classes == ('a', 'c')
    assert table.base_classes == ()
    assert table.ids == (1, 3)


def test_repair_finds_names_in_either_spelling():
    categories = make_categories(['Campel', 'Pig'])

    def repair(name):
        return {'Campel': 'Camel'}.get(name, name)

    table = build_category_table(categories, repair=repair)
    assert table.names == ('Camel', 'Pig')
    assert table.names_in_file == ('Campel', 'Pig')
    for spelling in ('camel', 'Campel'):
        table = build_category_table(
            categories, classes=['Pig', spelling], repair=repair
        )
        assert table.ids == (2, 1)
        assert table.names == ('Pig', spelling)


def test_a_base_file_need_not_know_the_novel_classes():
    table = build_category_table(
        make_categories(['a', 'b']), split='base', novel_classes=['c']
    )
    assert table.names == ('a', 'b')


def test_categories_need_names_and_ids():
    for broken in (dict(id=1), dict(name='a'), dict(id=1, name=3)):
        with pytest.raises(ValueError, match='needs an id and a name'):
            build_category_table([broken])


def test_lists_override_the_frequency():
    categories = make_categories(['a', 'b', 'c'], 'rcf')
    table = build_category_table(categories, novel_classes=['c'])
    assert table.novel_classes == ('c',)
    table = build_category_table(categories, base_classes=['c'])
    assert table.base_classes == ('c',)


def test_case_and_blanks_do_not_matter_unless_ambiguous():
    categories = make_categories(['Tissue', 'mouse', 'Mouse'])
    table = build_category_table(categories, classes=['tissue ', 'mouse'])
    assert table.ids == (1, 2)
    assert table.names == ('tissue ', 'mouse')
    with pytest.raises(ValueError, match="'MOUSE'"):
        build_category_table(categories, classes=['MOUSE'])


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(classes=['a', 'zebra']), "1 of 2 .*'zebra'.*'a', 'b'"),
        (dict(classes=['a', 'a']), "twice: 'a'"),
        (dict(split='rare'), "split must be one of .*'rare'"),
        (dict(split='novel'), 'base_classes or novel_classes'),
        (dict(novel_classes=['z']), "novel_classes has 1 .*'z'"),
        (dict(base_classes=['a', 'z']), "base_classes has 1 .*'z'"),
        (dict(split='novel', novel_classes=[]), 'leaves none of the 2'),
        (dict(split='base'), 'base_classes or novel_classes'),
        (
            dict(base_classes=['a'], novel_classes=['a', 'b']),
            "base and as novel: 'a'",
        ),
        (
            dict(base_classes=['a'], novel_classes=['c']),
            "neither in base_classes nor in novel_classes: 'b'",
        ),
    ],
)
def test_contradictions_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_category_table(make_categories(['a', 'b']), **options)


def test_file_with_the_same_name_twice_is_refused():
    with pytest.raises(ValueError, match="'a' .id 2. appears twice"):
        build_category_table(make_categories(['a', 'a']))


def test_long_lists_of_names_are_cut():
    names = [f'name{i}' for i in range(40)]
    with pytest.raises(ValueError, match='40 of 40 .* and 30 more'):
        build_category_table(make_categories(['a']), classes=names)
