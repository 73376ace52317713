# Copyright (c) DITO for MMDetection contributors. Licensed under Apache-2.0.
"""Class names from lists, texts and files."""

import json

import pytest

from dito.models.text.name_files import (
    NameList,
    parse_names,
    read_names,
    typed_names,
)


@pytest.mark.parametrize(
    'name, content, want',
    [
        ('n.txt', '# pets\ncat\n\n red dog \n', NameList(['cat', 'red dog'])),
        ('n.json', json.dumps(['cat', 'dog']), NameList(['cat', 'dog'])),
        (
            'n.json',
            json.dumps(dict(cat=['kitty'], dog=[])),
            NameList(['cat', 'dog'], dict(cat=['kitty'], dog=[])),
        ),
        (
            'n.json',
            json.dumps(dict(categories=[dict(id=2, name='cat')])),
            NameList(['cat']),
        ),
        (
            'n.json',
            json.dumps(
                dict(
                    categories=[
                        dict(
                            name='cat',
                            synonyms=['cat', 'kitty'],
                            frequency='f',
                        ),
                        dict(name='yak', synonyms=['yak'], frequency='r'),
                    ]
                )
            ),
            NameList(['cat', 'yak'], dict(cat=['kitty']), ['yak']),
        ),
    ],
)
def test_reads(tmp_path, name, content, want) -> None:
    (tmp_path / name).write_text(content)
    assert read_names(tmp_path / name) == want


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{"a": 1.5}', 'has no class names'),
        (b'[{"id": 1}]', 'has no class names'),
        (b'[1', 'is not json'),
        (b'\xff\xfe', 'is not json'),
        (b'{"0": "cat", "0": "dog"}', "key '0' appears more than once"),
        (b'{"0": "cat", "00": "dog"}', 'an id has more than one name'),
        (b'{"0": ["n01", "cat"]}', 'has no class names'),
        (b'[' * 100_000, 'is not json'),
        (b'["cat", "\xe9"]', 'not a text file in UTF-8'),
    ],
)
def test_other_content_is_refused(tmp_path, content, message) -> None:
    (tmp_path / 'n.json').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_names(tmp_path / 'n.json')


def test_lines_that_only_resemble_numbered_ones(tmp_path) -> None:
    for lines in (
        ['boeing 737', 'airbus 320'],
        ['7 up', 'cat'],
        ['bat, animal', 'bat, club'],
        ['C# book', 'cat'],
    ):
        (tmp_path / 'n.txt').write_text('\n'.join(lines))
        assert read_names(tmp_path / 'n.txt').names == lines


def test_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match='no.txt does not exist'):
        read_names(tmp_path / 'no.txt')
    with pytest.raises(FileNotFoundError, match='is a folder'):
        read_names(tmp_path)


@pytest.mark.parametrize(
    'file, content',
    [
        ('n.txt', 'cat\nred dog\n'),
        ('n.txt', 'cat\r\n\r\nred dog'),
        ('n.TXT', 'cat, red dog,\n'),
        ('n.txt', '0 cat\n1 red dog\n'),
        ('n.txt', '1: cat\n2: red dog\n'),
        ('obj.names', 'cat\nred dog\n'),
        ('names', 'cat\nred dog\n'),
        ('n.json', '["cat", " red dog "]'),
        ('n.json', '{"1": "red dog", "0": "cat"}'),
        ('n.json', '{"red dog": 7, "cat": 3}'),
        ('n.json', '{"id2label": {"10": "red dog", "9": "cat"}, "x": 1}'),
        ('n.yaml', '- cat\n- red dog\n'),
        ('n.yml', 'names: [cat, red dog]\nnc: 2\n'),
        ('n.yaml', 'path: x\nnames:\n  0: cat\n  1: red dog\n'),
        ('n.txt', '2: red dog\n0: cat\n'),
        ('n.txt', '90\tred dog\n7\tcat\n'),
        ('n.txt', '1. red dog\n0. cat\n'),
        ('n.txt', 'red dog 1\ncat 0\n'),
        ('n.txt', 'cat: 1\nred dog: 2\n'),
        ('n.txt', "{7: 'red dog', 0: 'cat',\n}"),
        ('n.txt', "['cat', 'red dog']\n"),
        ('n.txt', '"cat"\n"red dog"\n'),
        ('n.txt', "- cat\n- 'red dog'\n"),
        ('n.txt', '0: cat\n1: "red dog"\n'),
        ('n.json', '["\\"cat\\"", "\'red dog\'"]'),
        (
            'n.json',
            '{"1": ["n02121809", "red dog"], "0": ["n02121808", "cat"]}',
        ),
        ('n.csv', '/m/01,cat\n/m/011k07,red dog\n'),
        ('n.csv', 'LabelName,DisplayName\n/m/01,cat\n/m/02,red dog\n'),
        ('n.csv', 'index,mid,display_name\n1,/m/1,"red dog"\n0,/m/2,cat\n'),
        ('n.csv', 'id,name\r\n2,red dog\r\n1,cat\r\n'),
        ('n.CSV', '7,red dog\n3,cat\n'),
        ('n.csv', 'id;name;count\n0;cat;9\n1;red dog;5\n'),
        ('n.csv', 'cat,1300\nred dog,900\n\n'),
        ('n.csv', 'red dog,1\ncat,0'),
        ('n.csv', 'name\ncat\nred dog\n'),
        ('n.csv', 'cat,\nred dog,\n'),
        ('n.csv', 'label,name\n/m/01,cat\n/m/02,red dog\n'),
        ('n.csv', 'name,frequency,synonyms\ncat,f,puss\nred dog,c,pup\n'),
        ('n.tsv', 'n02121808\tcat\nn02121809\tred dog\n'),
        ('n.txt', '[\n"cat",\n"red dog",\n]'),
        ('n.txt', '- cat\n- red dog\n'),
        ('n.txt', 'n02121808 cat\nn02121809 red dog\n'),
        ('n.txt', 'cat # tabby\n # none\n\u2060red dog\n\x1a'),
        ('n.pbtxt', 'item{id:1 name:"cat"} item{id:2,name:"red dog"}'),
    ],
)
@pytest.mark.parametrize(
    'encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32']
)
def test_every_kind_and_encoding_gives_the_names(
    tmp_path, file, content, encoding
) -> None:
    path = tmp_path / file
    path.write_bytes(content.encode(encoding))
    assert read_names(path).names == ['cat', 'red dog']
    assert parse_names(path) == parse_names(str(path)) == ('cat', 'red dog')
    assert parse_names(path.as_uri()) == ('cat', 'red dog')


def test_yaml_values_are_texts_and_run_nothing(tmp_path) -> None:
    path = tmp_path / 'n.yaml'
    path.write_text('[no, on, 7, 1.5, ~x]')
    assert parse_names(path) == ('no', 'on', '7', '1.5', '~x')
    gone = tmp_path / 'gone'
    path.write_text(f'!!python/object/apply:os.mkdir ["{gone}"]')
    with pytest.raises(ValueError, match='is not yaml'):
        parse_names(path)
    assert not gone.exists()
    path.write_text('names: {0: cat, 0: dog}')
    with pytest.raises(ValueError, match="'0' appears more than once"):
        parse_names(path)


def test_escapes_of_a_label_map(tmp_path) -> None:
    path = tmp_path / 'n.pbtxt'
    path.write_text(r'item { id: 1 name: "t\303\252te \'a\'" }')
    assert read_names(path).names == ["t\u00eate 'a'"]


def test_nested_fields_of_a_label_map_are_no_names(tmp_path) -> None:
    path = tmp_path / 'n.pbtxt'
    path.write_text(
        'item { name: "/m/1" id: 2 display_name: "person" '
        'keypoints { id: 1 label: "nose" }\n'
        'keypoints < id: 2 name: "eye" > }\n'
        'item { keypoints { id: 7 label: "tail" } '
        'id: 1 name: "cat" }'
    )
    assert read_names(path).names == ['cat', 'person']


def test_commas_within_quotation_marks(tmp_path) -> None:
    want = ('bat, animal', 'bat, club')
    assert parse_names('"bat, animal", "bat, club"') == want
    assert parse_names('5" pipe, cat') == ('5" pipe', 'cat')
    assert parse_names(['"bat, animal"', "'bat, club'"]) == want
    (tmp_path / 'n.csv').write_text('"bat, animal"\n"bat, club"\n')
    assert parse_names(tmp_path / 'n.csv') == want
    with pytest.raises(ValueError, match='not in pairs'):
        parse_names('cat, "red dog')


def test_label_map_has_display_names_by_id(tmp_path) -> None:
    path = tmp_path / 'n.pbtxt'
    path.write_text(
        r'item { name: "/m/1" id: 2 display_name: "a \"dog\"" }'
        "# item { id: 3 }\nitem { id: 1 name: 'cat {tabby}' }"
    )
    assert read_names(path).names == ['cat {tabby}', 'a "dog"']
    for text, message in (
        ('item { id: 1 }', 'is not a label map'),
        ('item ? ', "'\\?' at character 5"),
        (
            'item { id: 1 name: "a" } item { id: 1 name: "b" }',
            'more than one name',
        ),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_names(path)


@pytest.mark.parametrize(
    'names',
    [
        '\ufeffanchor, key',
        ['\ufeffanchor', 'key\u200b'],
        '["anchor", "key"]',
        'anchor\nkey\n',
        'anchor\r\nkey',
        ' anchor ,key, ',
    ],
)
def test_texts_and_lists(names) -> None:
    assert parse_names(names) == ('anchor', 'key')


@pytest.mark.parametrize(
    'name',
    ['TV/monitor', 'St. Bernard', 'no. 7 bus', 'bat_(animal)', 'U.S. flag'],
)
def test_names_that_only_resemble_files_or_prompts(name) -> None:
    assert parse_names(name) == (name,)
    assert parse_names([name, 'key']) == (name, 'key')


@pytest.mark.parametrize(
    'names, error, message',
    [
        ('a cat . a dog .', ValueError, "commas: 'a cat, a dog'"),
        ('cat. dog', ValueError, "commas: 'cat, dog'"),
        ('cat.', ValueError, 'Grounding DINO'),
        ('cat; dog', ValueError, "commas: 'cat, dog'"),
        ('cat|dog', ValueError, "separated by '|'"),
        ('[cat, dog]', ValueError, 'not a json list'),
        ('obj.names', FileNotFoundError, 'obj.names does not exist'),
        ('sub/my names.JSON', FileNotFoundError, 'does not exist'),
        ('~nouser/names.txt', FileNotFoundError, '~nouser/names.txt does not'),
        ('~nouser/names', FileNotFoundError, 'does not exist'),
        ('/nowhere/names', FileNotFoundError, 'does not exist'),
        ('v.safetensors', FileNotFoundError, 'does not exist'),
        ('cat, names.txt', ValueError, "'names.txt' among the names"),
        (['cat', 'names.yaml'], ValueError, 'looks like a file'),
        ('https://x.org/names.txt', ValueError, 'download'),
        ('classes.csv', FileNotFoundError, 'does not exist'),
        ('file://elsewhere/etc/passwd', ValueError, 'download'),
        ('{"cat": 0}', ValueError, 'another format'),
    ],
)
def test_what_is_not_names_is_said(names, error, message) -> None:
    with pytest.raises(error, match=message.replace('|', '\\|')):
        parse_names(names)


@pytest.mark.parametrize(
    'file, content, message',
    [
        ('n.xml', b'<names/>', 'not read from a .xml file'),
        (
            'n.csv',
            b'cat,feline\ndog,canine\n',
            r"not clear which column of .*n.csv .*\('cat', 'feline'\)",
        ),
        ('n.csv', b'id,noun,plural\n0,cat,cats\n', 'not clear which column'),
        ('n.csv', b'image,label\na.jpg,0\n', 'image'),
        (
            'n.csv',
            b'id,name\n0,cat\n1,bat, animal\n',
            'Line 3 of .* has 3 cells and the first row 2',
        ),
        ('n.csv', b'id,name\n0,cat\n0,dog\n', 'an id to more than one name'),
        ('n.csv', b'id,name\n', 'a header and no class names'),
        ('n.csv', b'0,"cat\n1,dog\n', 'line 2 on .*must be doubled'),
        ('n.csv', b'\n\n', 'has none'),
        ('n.pbtxt', b'item { id: 1 name: "cat"', 'braces are not in pairs'),
        (
            'n.pbtxt',
            b'item { id: 1 name: "cat" } }',
            'braces are not in pairs',
        ),
        (
            'n.json',
            b'{"0": ["n1", "a"], "1": ["n02121808", "b"]}',
            'has no class names',
        ),
        ('n.yaml', b'nc: 3\nnames: [cat, dog]\n', 'nc=3 and 2 names'),
        ('n.txt', b'cat . dog .\ncow . pig .\n', 'prompt of Grounding DINO'),
        ('n.txt', b'<!DOCTYPE html><html><head><title>404', 'another format'),
        (
            'n.txt',
            b'version https://git-lfs.github.com/spec/v1\nsize 1\n',
            'another format',
        ),
        (
            'n.txt',
            b'item { id: 1 name: "cat" }\nitem { id: 2 name: "b" }',
            'another format',
        ),
        ('n.prototxt', b'item { name: "cat" label: 1 }', 'another format'),
        ('n.txt', b'names:\n- cat\n- dog\n', 'another format'),
        ('n.txt', b'names: [cat, dog]\n', 'another format'),
        (
            'n.pbtxt',
            b'item { id: 1 name: "cat" "dog" }',
            'no pairs of a field',
        ),
        ('n.txt', b'', 'has none'),
        ('n.txt', b"'cat',\n'dog',\n", 'ends with a comma'),
        ('n.txt', b'1 cat\n5 dog\n', "number .'1 cat'.*not consecutive"),
        ('n.txt', b'1: cat\n1: dog\n', 'each once'),
        ('n.txt', b'id,name\n0,cat\n', "look like a table .'id,name'"),
        ('n.txt', b'/m/01,cat\n/m/02,dog\n', 'look like a table'),
        ('n.txt', b'cat\n// dog\n', 'begin comments with #'),
        ('n.txt', b'x' * 10_000_000, 'has 10,000,000 characters'),
        ('n.txt', b"{0: 'cat's'}", 'is not yaml'),
        ('n.json', b'["\\ud83d cat"]', 'half a character'),
        (
            'n.json',
            b'[{"name": "cat", "synonyms": 5}, {"name": 5}]',
            'has no class names',
        ),
        ('n.pbtxt', 'item{id:\u00b2 name:"a"}'.encode(), 'not a label map'),
        ('n.txt', 'cat\ndog'.encode('utf-16-le'), 'save it as UTF-8'),
        ('n.txt', b'\x89PNG\r\n\x1a\n', 'not a text file'),
        ('n.safetensors', b'cat', 'safetensors'),
    ],
)
def test_files_without_names_are_refused(
    tmp_path, file, content, message
) -> None:
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        parse_names(path)


def test_common_names_come_with_the_package() -> None:
    names = parse_names('common')
    assert len(names) > 1200 and {'umbrella', 'bat (animal)'} < set(names)
    assert list(names) == sorted(names, key=str.casefold)
    # In a list, and among others, it is a name as any.
    assert parse_names(['common']) == typed_names('common') == ('common',)
    assert parse_names('common, rare') == ('common', 'rare')
