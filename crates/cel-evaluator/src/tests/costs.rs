use super::*;

/// The costs that cel-go and k8s.io/apiserver state in their own tests.
#[test]
fn costs_are_those_of_upstream() {
    let numbers = Value::list((0..10).map(Value::Int).collect());
    let map = Value::map(
        [(crate::Key::text("a"), Value::Int(1))]
            .into_iter()
            .collect(),
    );
    let variables = [
        ("input", numbers),
        ("m", map),
        ("text", Value::text("0123456789")),
        ("n", Value::Int(1)),
    ];
    for (source, cost) in [
        ("1", 0),
        ("input", 1),
        ("m.a", 2),
        ("m['a']", 2),
        ("has(m.a)", 1),
        ("input[0]", 2),
        ("[1, 2, 3]", 0),
        ("[n, 2]", 11),
        ("{'a': 1}", 0),
        ("{'a': n}", 31),
        ("n == 1", 2),
        ("n + 1", 2),
        ("!(n == 1)", 3),
        ("n == 1 || n == 2", 2),
        ("n == 2 ? 1 : n", 3),
        ("1 in input", 11),
        ("n in [1, 2, 3]", 1),
        ("text == '0123456789'", 2),
        ("text + text", 4),
        ("text.startsWith('0')", 2),
        ("text.contains('0123456789')", 2),
        ("text.matches('[0-9]+')", 5),
        ("size(input)", 2),
        // Each step: the condition 2, the accumulator 1, the predicate 2; then the result and the range.
        ("input.all(x, x >= 0)", 52),
        // Each step: the accumulator 1, the list 10, the sum 1, the variable 1.
        ("input.map(x, x)", 132),
        ("text.lowerAscii()", 2),
        ("text.replace('0', '1')", 3),
        ("text.split('')", 3),
        ("input.sum()", 11),
        ("input.isSorted()", 11),
        ("input.indexOf(5)", 11),
        ("url('https:://kubernetes.io/')", 3),
        ("ip('192.168.0.1')", 2),
        ("ip('192.168.0.1').family()", 3),
        ("cidr('192.168.0.0/16').containsIP(ip('192.168.0.1'))", 5),
        ("quantity('12Mi') == quantity('12Mi')", 3),
        ("duration('1h') == duration('1h')", 1),
        ("sets.contains(input, [1, 2])", 22),
        ("input.reverse()", 22),
        ("input.distinct()", 212),
        ("optional.of(n).orValue(2)", 2),
        ("jsonpatch.escapeKey('0123456789')", 1),
    ] {
        let evaluation = evaluation(source, &variables).unwrap();
        assert_eq!(evaluation.cost, cost, "{source}: {:?}", evaluation.result);
    }
}

#[test]
fn a_costly_expression_is_stopped() {
    let numbers = Value::list((0..200).map(Value::Int).collect());
    let variables = [("self", numbers)];
    for source in [
        "self.all(a, self.all(b, self.all(c, a == a)))",
        "self.map(a, self.map(b, self.map(c, a))).size() > 0",
        "self.exists(a, self.exists(b, self.exists(c, 1 / 0 == 1)))",
        "lists.range(1000000000).size() > 0",
        "self.all(a, lists.range(1000).distinct().size() == 1000)",
        "cel.bind(a, self + self + self + self + self + self + self, cel.bind(b, a + a + a + a + a + a + a, \
         cel.bind(c, b + b + b + b + b + b + b, cel.bind(d, c + c + c + c + c + c + c, \
         (d + d + d + d + d).size() > 0))))",
        "cel.bind(a, 'x'.replace('', 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'), \
         cel.bind(b, a.replace('y', a), cel.bind(c, b.replace('y', b), c.replace('y', c).size() > 0)))",
        "self.all(a, self.all(b, string(a + b).matches('(' + string(b) + '[a-z]{500}){9}') == false))",
    ] {
        let evaluation = evaluation(source, &variables).unwrap();
        let error = evaluation.result.expect_err(source);
        assert!(error.is_cost_limit(), "{source}: {error}");
        assert!(evaluation.cost > 1_000_000, "{source}");
    }
}

#[test]
fn maps_and_lists_grow_without_copies() {
    let numbers = Value::list((0..20_000).map(Value::Int).collect());
    let variables = [("self", numbers)];
    for source in [
        "self.map(x, x).size() == 20000",
        "self.transformMap(i, v, v).size() == 20000",
        "self.filter(x, x > 0).size() == 19999",
    ] {
        assert!(
            matches!(result(source, &variables), Ok(Value::Bool(true))),
            "{source}"
        );
    }
}
