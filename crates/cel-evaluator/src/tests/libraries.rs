use super::*;

#[test]
fn functions_of_texts() {
    assert_true(
        &[
            "'tacocat'.charAt(3) == 'o' && 'tacocat'.charAt(7) == '' && '\u{a9}\u{3b1}'.charAt(1) == '\u{3b1}'",
            "'tacocat'.indexOf('') == 0 && 'tacocat'.indexOf('ac') == 1 && 'tacocat'.indexOf('none') == -1",
            "'tacocat'.indexOf('', 3) == 3 && 'tacocat'.indexOf('a', 3) == 5 && 'tacocat'.indexOf('at', 3) == 5",
            "'ta\u{a9}o\u{a9}\u{3b1}T'.indexOf('\u{a9}') == 2 && 'ta\u{a9}o\u{a9}\u{3b1}T'.indexOf('\u{a9}', 3) == 4",
            "'tacocat'.lastIndexOf('') == 7 && 'tacocat'.lastIndexOf('at') == 5 && 'ab'.lastIndexOf('abc') == -1",
            "'tacocat'.lastIndexOf('a', 4) == 1 && 'tacocat'.lastIndexOf('a', 5) == 5 && 'aaa'.lastIndexOf('aa', 1) == 1",
            "'hello wello'.lastIndexOf('ello', 6) == 1 && 'hello wello'.lastIndexOf('low') == -1",
            "'TacoCat'.lowerAscii() == 'tacocat' && 'tacoC\u{c6}t'.lowerAscii() == 'tacoc\u{c6}t'",
            "'tacoCat'.upperAscii() == 'TACOCAT' && 'a\u{3be}'.upperAscii() == 'A\u{3be}'",
            "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello'.replace('', '_') == '_h_e_l_l_o_'",
            "'hello hello'.replace('he', 'we', 1) == 'wello hello' && 'hello'.replace('l', 'L', 0) == 'hello'",
            "'12 days'.replace('{0}', 'x') == '12 days' && 'abc'.replace('', '-', 2) == '-a-bc'",
            "'hello world'.split(' ') == ['hello', 'world'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
            "'hello'.split('') == ['h', 'e', 'l', 'l', 'o'] && 'hello'.split('', 2) == ['h', 'ello']",
            "'a,b'.split(',', 0) == [] && 'a,b'.split(',', 1) == ['a,b'] && 'a,b'.split(',', -1) == ['a', 'b']",
            "''.split(',') == [''] && ''.split('') == []",
            "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta\u{a9}'.substring(2) == '\u{a9}'",
            "'  a\\t\\n'.trim() == 'a' && '\u{a0}b\u{2003}'.trim() == 'b'",
            "['a', 'b'].join() == 'ab' && ['a', 'b'].join('-') == 'a-b' && [].join(',') == ''",
            "strings.quote('a\"b\\n') == '\"a\\\\\"b\\\\n\"' && 'x'.contains('') && 'abc'.contains('bc')",
            "'abc'.startsWith('ab') && 'abc'.endsWith('bc') && !'abc'.startsWith('b')",
        ],
        &[],
    );
    assert_errors(
        &[
            ("'tacocat'.charAt(30)", "index out of range: 30"),
            ("'tacocat'.indexOf('a', -1)", "index out of range: -1"),
            ("'tacocat'.substring(40)", "index out of range: 40"),
            (
                "'tacocat'.substring(3, 1)",
                "invalid substring range. start: 3, end: 1",
            ),
            ("[1].join()", "join: invalid input"),
        ],
        &[],
    );
}

// findings-2 E6
#[test]
fn formatted_texts() {
    for (expression, expected) in [
        ("'no clause'.format([])", "no clause"),
        ("'%s and %s'.format(['a', 1])", "a and 1"),
        ("'%% and also %%'.format([])", "% and also %"),
        ("'%s%%'.format(['text'])", "text%"),
        ("'%d %d'.format([1, 2u])", "1 2"),
        ("'%.3f'.format([1.2345])", "1.234"),
        ("'%f'.format([2.71828])", "2.718280"),
        ("'%.2f'.format([1234567.0])", "1,234,567.00"),
        ("'%f %f'.format(['NaN', '-Infinity'])", "NaN -\u{221e}"),
        (
            "'%.6e'.format([1052.032911275])",
            "1.052033\u{202f}\u{d7}\u{202f}10\u{2070}\u{b3}",
        ),
        (
            "'%e'.format([2.71828])",
            "2.718280\u{202f}\u{d7}\u{202f}10\u{2070}\u{2070}",
        ),
        ("'%b %b %b'.format([5, -5, true])", "101 -101 1"),
        ("'%o %o'.format([11, 65535u])", "13 177777"),
        ("'%x %X %x'.format([30, 6000u, -30])", "1e 1770 -1e"),
        ("'%x'.format(['Hello world!'])", "48656c6c6f20776f726c6421"),
        ("'%X'.format([b'byte string'])", "6279746520737472696E67"),
        ("'%s'.format([2.71])", "2.71"),
        ("'%s'.format([[2.71]])", "[2.710000]"),
        ("'%s'.format([0.000000002])", "2e-09"),
        ("'%s'.format([double('Inf')])", "+Inf"),
        (
            "'%s'.format([[double('NaN'), double('Inf')]])",
            "[\"NaN\", \"+Inf\"]",
        ),
        ("'%s %s'.format([null, type('a')])", "null string"),
        ("'%s'.format([duration('1h45m47s')])", "6347s"),
        (
            "'%s'.format([['abc', 3.14, null, [9, 8], timestamp('2023-02-03T23:31:20Z')]])",
            "[\"abc\", 3.140000, null, [9, 8], timestamp(\"2023-02-03T23:31:20Z\")]",
        ),
        (
            "'%s'.format([{'key1': b'xyz', 'key5': null, 'key2': duration('2h'), 'key4': true}])",
            "{\"key1\":b\"xyz\", \"key2\":duration(\"7200s\"), \"key4\":true, \"key5\":null}",
        ),
        ("'%s'.format([{1: 'a', true: 2}])", "{1:\"a\", true:2}"),
    ] {
        match result(expression, &[]) {
            Ok(Value::String(text)) => assert_eq!(&*text, expected, "{expression}"),
            other => panic!("{expression}: {other:?}"),
        }
    }
    assert_errors(
        &[
            ("'%s'.format([])", "index 0 out of range"),
            (
                "'%d'.format(['a'])",
                "decimal clause can only be used on integers, was given string",
            ),
            ("'%z'.format([1])", "unrecognized formatting clause \"z\""),
            ("'%.f'.format([1.0])", "error while parsing precision"),
            (
                "'%f'.format([1])",
                "fixed-point clause can only be used on doubles, was given int",
            ),
            ("'%'.format([1])", "unexpected end of string"),
        ],
        &[],
    );
}

#[test]
fn functions_of_lists() {
    assert_true(
        &[
            "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [1].slice(0, 0) == []",
            "[1, [2, 3], [4, [5]]].flatten() == [1, 2, 3, 4, [5]]",
            "[1, [2, [3, [4]]]].flatten(2) == [1, 2, 3, [4]] && [[1]].flatten(0) == [[1]]",
            "[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b'] && [].sort() == []",
            "[{'n': 'b', 'v': 2}, {'n': 'a', 'v': 1}].sortBy(e, e.v).map(e, e.n) == ['a', 'b']",
            "[3, 1].sortBy(e, -e) == [3, 1]",
            "lists.range(4) == [0, 1, 2, 3] && lists.range(0) == [] && lists.range(-1) == []",
            "[1, 2].reverse() == [2, 1] && [1, 2, 2, 1.0, 'a'].distinct() == [1, 2, 'a']",
            "[1, 2, 3].isSorted() && ![2, 1].isSorted() && [].isSorted() && ['a', 'b', 'b'].isSorted()",
            "[1, 2].sum() == 3 && [1.5, 2.5].sum() == 4.0 && [1u].sum() == 1u && [].sum() == 0",
            "[duration('1h'), duration('1m')].sum() == duration('61m')",
            "[3, 1, 2].min() == 1 && [3, 1, 2].max() == 3 && ['b', 'a'].min() == 'a'",
            "[timestamp('2023-01-01T00:00:00Z'), timestamp('2022-01-01T00:00:00Z')].max().getFullYear() == 2023",
            "[1, 2, 2, 3].indexOf(2) == 1 && [1, 2, 2, 3].lastIndexOf(2) == 2 && [1].indexOf(5) == -1",
            "['a', 'b', 'b'].lastIndexOf('b') == 2 && [].indexOf('a') == -1",
        ],
        &[],
    );
    assert_errors(
        &[
            (
                "[1].slice(3, 0)",
                "start index must be less than or equal to end index",
            ),
            ("[1].slice(-1, 3)", "negative indexes not supported"),
            ("[1].slice(0, 10)", "cannot slice(0, 10), list is length 1"),
            ("[1].flatten(-1)", "level must be non-negative"),
            (
                "[dyn(1), 'a'].sort()",
                "list elements must have the same type",
            ),
            ("[].min()", "min called on empty list"),
            ("[].max()", "max called on empty list"),
        ],
        &[],
    );
}

#[test]
fn lists_as_sets() {
    assert_true(
        &[
            "sets.contains([], []) && !sets.contains([], [1]) && sets.contains([1, 2, 3, 4], [2, 3])",
            "sets.contains([1, 2.0, 3u], [1.0, 2u, 3])",
            "sets.equivalent([], []) && sets.equivalent([1], [1, 1]) && sets.equivalent([1, 2, 3], [3u, 2.0, 1])",
            "!sets.equivalent([2, 1], [1]) && !sets.intersects([1], []) && sets.intersects([1], [1, 2])",
            "sets.intersects([[1], [2, 3]], [[1, 2], [2, 3.0]]) && !sets.intersects([1], [2])",
        ],
        &[],
    );
}

#[test]
fn functions_of_numbers() {
    assert_true(
        &[
            "math.least(-0.5) == -0.5 && math.least(42, 40, 4) == 4 && math.least([1, 2.0, 3u]) == 1",
            "math.greatest(1.5, 1) == 1.5 && math.greatest([42, 40, 4]) == 42 && math.greatest(1, 2u) == 2u",
            "math.ceil(1.2) == 2.0 && math.ceil(-1.2) == -1.0 && math.floor(1.2) == 1.0 && math.floor(-1.2) == -2.0",
            "math.round(1.5) == 2.0 && math.round(-1.5) == -2.0 && math.trunc(-1.3) == -1.0 && math.round(1.2) == 1.0",
            "math.abs(-1) == 1 && math.abs(1u) == 1u && math.abs(-1.5) == 1.5",
            "math.sign(-42) == -1 && math.sign(0) == 0 && math.sign(42u) == 1u && math.sign(-0.3) == -1.0",
            "math.isInf(1.0 / 0.0) && !math.isInf(1.2) && math.isNaN(0.0 / 0.0) && math.isFinite(1.2)",
            "math.bitAnd(3u, 2u) == 2u && math.bitAnd(3, -1) == 3 && math.bitOr(1u, 2u) == 3u",
            "math.bitXor(3, 5) == 6 && math.bitNot(1) == -2 && math.bitNot(0u) == 18446744073709551615u",
            "math.bitShiftLeft(1, 2) == 4 && math.bitShiftLeft(1, 200) == 0 && math.bitShiftRight(1024u, 2) == 256u",
            "math.bitShiftRight(-1024, 3) == 2305843009213693824 && math.bitShiftLeft(-1, 200) == 0",
            "math.sqrt(49) == 7.0 && math.sqrt(4u) == 2.0 && math.isNaN(math.sqrt(-15.0))",
        ],
        &[],
    );
    assert_errors(
        &[
            ("math.abs(-9223372036854775808)", "integer overflow"),
            (
                "math.bitShiftLeft(1, -2)",
                "math.bitShiftLeft() negative offset: -2",
            ),
            ("math.greatest(dyn([]))", "argument must not be empty"),
        ],
        &[],
    );
}

#[test]
fn base64() {
    assert_true(
        &[
            "base64.decode('aGVsbG8=') == b'hello' && base64.decode('aGVsbG8') == b'hello'",
            "base64.encode(b'hello') == 'aGVsbG8='",
        ],
        &[],
    );
    assert_errors(&[("base64.decode('z')", "illegal base64 data")], &[]);
}
