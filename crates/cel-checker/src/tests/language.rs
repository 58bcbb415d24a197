use super::*;

#[test]
fn literals_and_variables_have_types() {
    let cases = [
        ("'A'", "string"),
        ("12", "int"),
        ("12u", "uint"),
        ("true", "bool"),
        ("12.23", "double"),
        ("null", "null"),
        ("b'ABC'", "bytes"),
        ("is", "string"),
        ("ii", "int"),
        ("iu", "uint"),
        ("iz", "bool"),
        ("id", "double"),
        ("ix", "null"),
        ("ib", "bytes"),
        (".ii", "int"),
        ("a.b.c", "int"),
        ("a.b.c + 1", "int"),
        (".a.b.c", "int"),
        ("x", "Whole"),
        ("maybe_int", "wrapper(int)"),
        ("param", "dyn"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn literals_of_lists_and_maps_have_the_types_of_their_parts() {
    let cases = [
        ("[]", "list(dyn)"),
        ("[1]", "list(int)"),
        ("[1, 'A']", "list(dyn)"),
        ("[1, 2u] + []", "list(dyn)"),
        ("[] + [1, 2, 3,] + [4]", "list(int)"),
        ("[1] + [2]", "list(int)"),
        ("[1] + [dyn('string')]", "list(dyn)"),
        ("[dyn('string')] + [1]", "list(dyn)"),
        ("{}", "map(dyn, dyn)"),
        ("{1: 2u, 2: 3u}", "map(int, uint)"),
        ("{1: 2u, 2u: 3}", "map(dyn, dyn)"),
        ("{'a': 1, 'b': 2}.a", "int"),
        ("{'a': 1}['a']", "int"),
        ("[[1], [2]][0]", "list(int)"),
        ("[[], [1]]", "list(list(int))"),
        ("[null, x]", "list(Whole)"),
        ("[maybe_int, null]", "list(null)"),
        (
            "([[[1]], [[2]], [[3]]][0][0] + [2, 3, {'four': {'five': 'six'}}])[3]",
            "dyn",
        ),
        ("{'a': {'b': [1.5]}}.a.b[0]", "double"),
        ("[{}, {'a': 1}]", "list(map(string, int))"),
        ("{}.map(c, [c, type(c)])", "list(list(dyn))"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn operators_have_result_types() {
    let cases = [
        ("1 + 2", "int"),
        ("1 + ii", "int"),
        ("1.0 + 2.0 * 3.0 - 1.0 / 2.20202 != 66.6", "bool"),
        ("1 + 2 * 3 - 1 / 2 == 6 % 1", "bool"),
        ("1u + 2u * 3u - 1u / 2u == 6u % 1u", "bool"),
        ("-1", "int"),
        ("-ii", "int"),
        ("-id", "double"),
        ("'abc' + 'def'", "string"),
        ("b'abc' + b'def'", "bytes"),
        ("false && !true || false ? 2 : 3", "int"),
        ("iz ? [] : [1]", "list(int)"),
        ("iz ? 1 : dyn('a')", "dyn"),
        ("iz ? null : x", "null"),
        ("null == null && null != null", "bool"),
        ("1 == 1 && 2 != 1", "bool"),
        ("1 in [1, 2, 3]", "bool"),
        ("1 in dyn([1, 2, 3])", "bool"),
        ("'a' in labels", "bool"),
        (
            "1 <= 1.0 && 1u <= 1.0 && 1.0 <= 1 && 1.0 <= 1u && 1 <= 1u && 1u <= 1",
            "bool",
        ),
        (
            "1 < 1.0 && 1u < 1.0 && 1.0 < 1 && 1.0 < 1u && 1 < 1u && 1u < 1",
            "bool",
        ),
        (
            "1 > 1.0 && 1u > 1.0 && 1.0 > 1 && 1.0 > 1u && 1 > 1u && 1u > 1",
            "bool",
        ),
        (
            "1 >= 1.0 && 1u >= 1.0 && 1.0 >= 1 && 1.0 >= 1u && 1 >= 1u && 1u >= 1",
            "bool",
        ),
        ("false < true && 'a' < 'b' && b'a' < b'b'", "bool"),
        ("x.since - x.since", "duration"),
        ("x.since - x.period", "timestamp"),
        ("x.since + x.period", "timestamp"),
        ("x.period + x.since", "timestamp"),
        ("x.period + x.period", "duration"),
        ("x.period - x.period < x.period", "bool"),
        ("id_dyn + 1", "int"),
        ("id_dyn + id_dyn", "dyn"),
        ("id_dyn < id_dyn", "bool"),
        ("id_dyn && id_dyn", "bool"),
        ("param.b + 1 == param[0]", "bool"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn functions_have_result_types() {
    let cases = [
        ("size(x.numbers) == x.numbers.size()", "bool"),
        ("size([] + [1])", "int"),
        ("size('a') + size(b'a') + size({}) + 'a'.size()", "int"),
        ("int(1u) + int(uint('1'))", "int"),
        (
            "int(1.5) + int('1') + int(x.since) + int(x.period) + int(1)",
            "int",
        ),
        ("uint(1) + uint(1.5) + uint('1') + uint(1u)", "uint"),
        (
            "double(1) + double(1u) + double('1') + double(1.0)",
            "double",
        ),
        (
            "string(1) + string(1u) + string(1.0) + string(true) + string(b'a')",
            "string",
        ),
        ("string(x.since) + string(x.period) + string('a')", "string"),
        ("bytes('a') + bytes(b'a')", "bytes"),
        ("bool('true') || bool(true)", "bool"),
        ("timestamp('2020-01-01T00:00:00Z') > timestamp(1)", "bool"),
        ("duration('1s') == duration(x.period)", "bool"),
        ("dyn(1)", "dyn"),
        (
            "'a'.contains('b') && 'a'.startsWith('b') && 'a'.endsWith('b')",
            "bool",
        ),
        ("'a'.matches('b') && matches('a', 'b')", "bool"),
        ("x.since.getFullYear() + x.since.getMonth('UTC')", "int"),
        (
            "x.since.getDate() + x.since.getDayOfMonth() + x.since.getDayOfWeek()",
            "int",
        ),
        (
            "x.since.getDayOfYear() + x.since.getHours() + x.period.getHours()",
            "int",
        ),
        (
            "x.period.getMinutes() + x.period.getSeconds() + x.period.getMilliseconds()",
            "int",
        ),
        ("type(1)", "type(int)"),
        ("type(null) == null_type", "bool"),
        ("type(type) == type", "bool"),
        ("list == type([1]) && map == type({1: 2u})", "bool"),
        ("type(x.number) == int", "bool"),
        ("type(id_dyn) == string", "bool"),
        ("type(x.since) == google.protobuf.Timestamp", "bool"),
        ("type(x) == Whole", "bool"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn fields_have_their_declared_types() {
    let cases = [
        ("x.number", "int"),
        ("x.part.bb == 43 && has(x.part)", "bool"),
        ("x.parts[0].name", "string"),
        ("x.by_id[3].name", "string"),
        ("x.any.whatever.else[1]", "dyn"),
        ("x.free.y", "dyn"),
        ("x.any[23] + x.free['y']", "dyn"),
        ("x.labels.z", "string"),
        ("x.maybe == null", "bool"),
        ("x.maybe + 1 != 23", "bool"),
        ("x.part != null", "bool"),
        ("x.since == null || null == x.period", "bool"),
        (
            "null == maybe_int || maybe_int == null || x == null",
            "bool",
        ),
        ("xs[1].number == size(xs)", "bool"),
        ("(xs + xs)[1].number == size(xs)", "bool"),
        ("xm['a'].number == 23 && xm.a.number == 23", "bool"),
        ("x.numbers[x.number] == 23", "bool"),
        ("!has(x.number) && !has(x.labels.a)", "bool"),
        (
            "x.free['claims']['groups'][0].name == 'dummy' && x.free.exp == x.any",
            "bool",
        ),
        ("Whole{number: 1, text: 'a'}", "Whole"),
        ("Whole{part: Part{bb: 1}}.part.bb", "int"),
        ("Whole{?number: {}.?i}", "Whole"),
        ("Whole{any: 1, since: null}", "Whole"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn comprehensions_have_the_types_of_their_results() {
    let cases = [
        ("x.numbers.all(e, e > 0)", "bool"),
        (
            "x.numbers.exists(e, e < 0) && x.numbers.exists_one(e, e == 0)",
            "bool",
        ),
        ("x.numbers.map(x, double(x))", "list(double)"),
        ("x.numbers.map(x, x > 0, double(x))", "list(double)"),
        ("[1].map(x, [x, x]).map(x, [x, x])", "list(list(list(int)))"),
        (
            "objects.filter(i, i.content != '').map(i, i.content)",
            "list(string)",
        ),
        ("[{}.map(c, c, c)] + [{}.map(c, c, c)]", "list(list(bool))"),
        ("id_dyn.filter(x, x > 1.5)", "list(dyn)"),
        (
            "x.free.k['m'].c.filter(x, x.name == 'hobbies')",
            "list(dyn)",
        ),
        ("labels.all(k, k.startsWith('a'))", "bool"),
        ("labels.map(k, labels[k])", "list(string)"),
        ("[{'z': 0}].exists(y, y.z == 0)", "bool"),
        ("[0].exists(ii, ii != .ii)", "bool"),
        ("[{'b': 0}].exists(a, a.b == 0)", "bool"),
        ("[{'y': 0}].exists(x, x.y == 0)", "bool"),
        ("[].map(x, x)", "list(dyn)"),
        ("[].all(x, x > 1)", "bool"),
        ("x.numbers.transformList(i, v, v + i)", "list(int)"),
        (
            "x.labels.transformMap(k, v, size(k + v))",
            "map(string, int)",
        ),
        (
            "x.texts.transformMap(i, v, i > 0 ? v : '')",
            "map(int, string)",
        ),
        ("cel.bind(a, x.text, a + a)", "string"),
        (
            "cel.bind(a, [1, 2], cel.bind(b, a[0], a.map(c, c + b)))",
            "list(int)",
        ),
    ];
    let declarations = declared(Declarations::kubernetes());
    assert_types(&declarations, &cases);
}

#[test]
fn optional_values_have_the_types_of_their_values() {
    let cases = [
        ("labels.?b", "optional_type(string)"),
        ("type(labels.?b) == optional_type", "bool"),
        ("opt_map.b", "optional_type(string)"),
        ("opt_dyn.dynamic", "optional_type(dyn)"),
        ("has(opt_dyn.dynamic)", "bool"),
        ("has(x.?free.k.c)", "bool"),
        ("{?'key': {'a': 'b'}.?value}", "map(string, string)"),
        ("{?'key': {'a': 'b'}.?value}.key", "string"),
        ("{?'nested': opt_map.b}", "map(string, string)"),
        ("[?opt_text, ?opt_text, 'world']", "list(string)"),
        ("x.?part.?bb", "optional_type(int)"),
        ("x.?part.bb.orValue(1)", "int"),
        ("x.numbers[?0]", "optional_type(int)"),
        ("x.?numbers[?0].orValue(2)", "int"),
        (
            "x.?labels['a'].or(optional.of('b'))",
            "optional_type(string)",
        ),
        ("labels[?'a'].hasValue()", "bool"),
        ("optional.of(1).value() + 1", "int"),
        ("optional.none()", "optional_type(dyn)"),
        ("optional.none().orValue(5)", "int"),
        ("optional.ofNonZeroValue('').orValue('a')", "string"),
        ("x.?text.optMap(t, size(t))", "optional_type(int)"),
        ("x.?part.optFlatMap(p, p.?name)", "optional_type(string)"),
        ("opt_text.optMap(t, t + 'a').orValue('')", "string"),
        (
            "x.numbers.first().orValue(1) + x.numbers.last().orValue(2)",
            "int",
        ),
        (
            "optional.unwrap([optional.of(1), optional.none()])",
            "list(int)",
        ),
        ("[optional.of(1)].unwrapOpt()", "list(int)"),
    ];
    assert_types(&declarations(), &cases);
}

#[test]
fn fields_with_escaped_names_can_be_reserved_words() {
    let fields = ["__namespace__", "a__dash__b"].map(|name| (name.to_owned(), Type::Int));
    let declarations = Declarations::standard().with_variable("self", Type::object("self", fields));
    let cases = [
        ("self.namespace + self.__namespace__", "int"),
        ("has(self.namespace) && self.a__dash__b == 1", "bool"),
    ];
    assert_types(&declarations, &cases);
}

#[test]
fn functions_can_be_declared() {
    let declarations = Declarations::standard()
        .with_function("myfun", "myfun_instance", "int.(bool, uint) -> int")
        .and_then(|all| all.with_function("myfun", "myfun_static", "(int, bool, uint) -> int"))
        .and_then(|all| all.with_function("set", "set_list", "(list(T)) -> set(T)"))
        .and_then(|all| all.with_function("base64.encode", "encode", "(string) -> string"))
        .and_then(|all| all.with_function("fg_s", "fg_s_0", "() -> string"))
        .unwrap()
        .with_variable("x", parse_type("set(T)").unwrap());
    let cases = [
        (
            "myfun(1, true, 3u) + 1.myfun(false, 3u).myfun(true, 42u)",
            "int",
        ),
        ("set([1, 2, 3])", "set(int)"),
        ("set([1, 2]) == set([2, 1])", "bool"),
        ("set([1, 2]) == x", "bool"),
        ("base64.encode('hello')", "string"),
        (".base64.encode('hello')", "string"),
        ("fg_s()", "string"),
    ];
    assert_types(&declarations, &cases);
}

#[test]
fn overloads_are_those_that_accept_the_arguments() {
    for (source, expected) in [
        ("1 + 2", "add_int64"),
        ("x.numbers + []", "add_list"),
        ("size(x.numbers)", "size_list"),
        ("x.labels.size()", "map_size"),
        (
            "id_dyn[0]",
            "index_list|index_map|optional_list_index_int|optional_map_index_value",
        ),
        ("x.free['a'] in id_dyn", "in_list|in_map"),
        (
            "dyn(1) < 2",
            "less_int64|less_uint64_int64|less_double_int64",
        ),
        ("x.?part", "select_optional_field"),
        ("true && false", "logical_and"),
        (
            "timestamp(id_dyn)",
            "timestamp_to_timestamp|int64_to_timestamp|string_to_timestamp",
        ),
    ] {
        let program = parse(source);
        let expression = program.expression();
        let checked = check(expression, program.source_info(), &declarations()).unwrap();
        let overloads = checked.overloads[&expression.id].join("|");
        assert_eq!(overloads, expected, "{source}");
    }
}

#[test]
fn each_subexpression_has_a_type() {
    let program = parse("[].map(x, [x, 1])[0] + x.numbers");
    let checked = check(program.expression(), program.source_info(), &declarations()).unwrap();
    assert!(
        checked
            .types
            .values()
            .all(|of| !of.to_string().contains("_var"))
    );
    let mut names: Vec<_> = checked.types.values().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    assert_eq!(
        names,
        ["Whole", "bool", "int", "list(int)", "list(list(int))"]
    );
}
