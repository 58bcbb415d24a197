use super::*;

fn kubernetes() -> Declarations {
    let authorizer = parse_type("kubernetes.authorization.Authorizer").unwrap();
    let check = parse_type("kubernetes.authorization.ResourceCheck").unwrap();
    declared(Declarations::kubernetes())
        .with_variable("authorizer", authorizer)
        .with_variable("authorizer.requestResource", check)
}

/// Asserts the type of each right call, and that a wrong one has no overload or, without a wrong one, nothing.
fn assert_calls(cases: &[(&str, &str, &str)]) {
    let declarations = kubernetes();
    let right: Vec<_> = cases.iter().map(|(right, of, _)| (*right, *of)).collect();
    assert_types(&declarations, &right);
    for (_, _, wrong) in cases {
        let errors = checked(wrong, &declarations).map(|checked| checked.result.to_string());
        let text = errors.expect_err(wrong).to_string();
        assert!(
            text.contains("found no matching overload for"),
            "{wrong}: {text}"
        );
    }
}

#[test]
fn texts() {
    assert_calls(&[
        ("'a'.charAt(0)", "string", "'a'.charAt('b')"),
        (
            "'a'.indexOf('b') + 'a'.indexOf('b', 1)",
            "int",
            "'a'.indexOf(1)",
        ),
        (
            "'a'.lastIndexOf('b') + 'a'.lastIndexOf('b', 1)",
            "int",
            "'a'.lastIndexOf('b', 'c')",
        ),
        ("'a'.lowerAscii()", "string", "lowerAscii('a')"),
        ("'a'.upperAscii()", "string", "1.upperAscii()"),
        (
            "'a'.replace('b', 'c') + 'a'.replace('b', 'c', 1)",
            "string",
            "'a'.replace('b')",
        ),
        (
            "'a'.split(',') + 'a'.split(',', 2)",
            "list(string)",
            "'a'.split(1)",
        ),
        (
            "'a'.substring(1) + 'a'.substring(1, 2)",
            "string",
            "'a'.substring('b')",
        ),
        ("'a'.trim()", "string", "b'a'.trim()"),
        ("'%s'.format(['a'])", "string", "'%s'.format('a')"),
        ("strings.quote('a')", "string", "strings.quote(1)"),
        ("['a'].join() + ['a'].join(',')", "string", "[1].join(',')"),
        ("'a'.find('b')", "string", "'a'.find(1)"),
        (
            "'a'.findAll('b') + 'a'.findAll('b', 1)",
            "list(string)",
            "'a'.findAll('b', 'c')",
        ),
        ("base64.decode('aa')", "bytes", "base64.decode(b'a')"),
        ("base64.encode(b'aa')", "string", "base64.encode('a')"),
        (
            "jsonpatch.escapeKey('a/b')",
            "string",
            "jsonpatch.escapeKey(1)",
        ),
    ]);
}

#[test]
fn lists_and_sets() {
    assert_calls(&[
        (
            "[1].isSorted() && x.texts.isSorted()",
            "bool",
            "[[1]].isSorted()",
        ),
        ("[1].sum() + x.numbers.sum()", "int", "['a'].sum()"),
        ("[x.period].sum()", "duration", "[x.since].sum()"),
        ("['a'].min()", "string", "[x].min()"),
        ("[x.since].max()", "timestamp", "[{}].max()"),
        ("x.numbers.indexOf(1)", "int", "x.numbers.indexOf('a')"),
        (
            "x.numbers.lastIndexOf(1)",
            "int",
            "x.numbers.lastIndexOf('a')",
        ),
        ("x.numbers.slice(0, 1)", "list(int)", "x.numbers.slice(0)"),
        (
            "[[1], [2]].flatten()",
            "list(int)",
            "x.numbers.flatten('a')",
        ),
        ("[[1], [2]].flatten(1)", "list(dyn)", "[1].flatten()"),
        ("x.numbers.sort()", "list(int)", "xs.sort()"),
        (
            "xs.sortBy(e, e.number)",
            "list(Whole)",
            "xs.sortBy(e, e.part)",
        ),
        ("lists.range(3)", "list(int)", "lists.range('a')"),
        ("x.texts.reverse()", "list(string)", "'a'.reverse()"),
        ("xs.distinct()", "list(Whole)", "labels.distinct()"),
        (
            "sets.contains([1], [])",
            "bool",
            "sets.contains([1], ['a'])",
        ),
        (
            "sets.equivalent(x.texts, ['a'])",
            "bool",
            "sets.equivalent([1], 1)",
        ),
        (
            "sets.intersects(x.numbers, [1])",
            "bool",
            "sets.intersects(x.numbers, x.texts)",
        ),
    ]);
}

#[test]
fn numbers() {
    assert_calls(&[
        ("math.greatest(1, 2, 3)", "int", "math.greatest(is)"),
        ("math.least(1.5, id)", "double", "math.least(is, 1)"),
        ("math.greatest(1, 2.0)", "dyn", "math.greatest(iz, 1)"),
        ("math.ceil(1.5) + math.floor(1.5)", "double", "math.ceil(1)"),
        (
            "math.round(1.5) + math.trunc(1.5)",
            "double",
            "math.round('a')",
        ),
        (
            "math.isInf(1.5) || math.isNaN(1.5) || math.isFinite(1.5)",
            "bool",
            "math.isNaN(1)",
        ),
        ("math.abs(-1) + math.sign(-1)", "int", "math.abs('a')"),
        (
            "math.bitAnd(1, 2) + math.bitOr(1, 2) + math.bitXor(1, 2)",
            "int",
            "math.bitAnd(1, 2u)",
        ),
        ("math.bitNot(1u)", "uint", "math.bitNot(1.0)"),
        (
            "math.bitShiftLeft(1u, 2) + math.bitShiftRight(1u, 2)",
            "uint",
            "math.bitShiftLeft(1, 2u)",
        ),
        ("math.sqrt(4)", "double", "math.sqrt('a')"),
        (
            "quantity('1').add(quantity('2')).add(1)",
            "kubernetes.Quantity",
            "quantity(1)",
        ),
        (
            "quantity('1').sub(quantity('2')).sub(1)",
            "kubernetes.Quantity",
            "quantity('1').sub('2')",
        ),
        ("isQuantity('1')", "bool", "isQuantity(1)"),
        ("sign(quantity('1'))", "int", "sign(1)"),
        (
            "quantity('1').isGreaterThan(quantity('2'))",
            "bool",
            "quantity('1').isGreaterThan(1)",
        ),
        (
            "quantity('1').isLessThan(quantity('2'))",
            "bool",
            "quantity('1').isLessThan(semver('1.0.0'))",
        ),
        (
            "quantity('1').compareTo(quantity('2'))",
            "int",
            "quantity('1').compareTo('2')",
        ),
        (
            "quantity('1').asApproximateFloat()",
            "double",
            "asApproximateFloat(1)",
        ),
        (
            "quantity('1').asInteger()",
            "int",
            "asInteger(quantity('1'))",
        ),
        ("quantity('1').isInteger()", "bool", "1.isInteger()"),
        (
            "quantity('1') == quantity('2')",
            "bool",
            "quantity('1') == 1",
        ),
    ]);
}

#[test]
fn addresses_and_urls() {
    assert_calls(&[
        ("url('https://a').getScheme()", "string", "url(1)"),
        ("url('https://a').getHost()", "string", "'a'.getHost()"),
        (
            "url('https://a').getHostname()",
            "string",
            "'a'.getHostname()",
        ),
        ("url('https://a').getPort()", "string", "getPort('a')"),
        (
            "url('https://a').getEscapedPath()",
            "string",
            "'a'.getEscapedPath()",
        ),
        (
            "url('https://a').getQuery()",
            "map(string, list(string))",
            "'a'.getQuery()",
        ),
        ("isURL('https://a')", "bool", "isURL(url('https://a'))"),
        ("ip('::1').family()", "int", "ip(1)"),
        ("ip.isCanonical('::1')", "bool", "ip.isCanonical(ip('::1'))"),
        (
            "ip('::1').isUnspecified() || ip('::1').isLoopback()",
            "bool",
            "'::1'.isLoopback()",
        ),
        (
            "ip('::1').isLinkLocalMulticast()",
            "bool",
            "isLinkLocalMulticast('a')",
        ),
        (
            "ip('::1').isLinkLocalUnicast()",
            "bool",
            "1.isLinkLocalUnicast()",
        ),
        (
            "ip('::1').isGlobalUnicast()",
            "bool",
            "cidr('::/1').isGlobalUnicast()",
        ),
        ("isIP('::1')", "bool", "isIP(1)"),
        (
            "string(ip('::1')) + string(cidr('::/1'))",
            "string",
            "string(url('a'))",
        ),
        ("cidr('::/1')", "net.CIDR", "cidr(1)"),
        (
            "cidr('::/1').containsIP('::1')",
            "bool",
            "cidr('::/1').containsIP(1)",
        ),
        (
            "cidr('::/1').containsIP(ip('::1'))",
            "bool",
            "ip('::1').containsIP('::1')",
        ),
        (
            "cidr('::/1').containsCIDR('::/2')",
            "bool",
            "cidr('::/1').containsCIDR(ip('::1'))",
        ),
        (
            "cidr('::/1').containsCIDR(cidr('::/2'))",
            "bool",
            "cidr('::/1').containsCIDR(1)",
        ),
        ("cidr('::/1').ip()", "net.IP", "cidr('::/1').ip(1)"),
        (
            "cidr('::/1').prefixLength()",
            "int",
            "ip('::1').prefixLength()",
        ),
        ("cidr('::/1').masked()", "net.CIDR", "ip('::1').masked()"),
        ("isCIDR('::/1')", "bool", "isCIDR(1)"),
        ("type(ip('::1')) == net.IP", "bool", "ip('::1') == '::1'"),
    ]);
}

#[test]
fn formats_and_versions() {
    assert_calls(&[
        (
            "format.dns1123Label().validate('a')",
            "optional_type(list(string))",
            "format.dns1123Label('a')",
        ),
        (
            "!format.named('uuid').value().validate('a').hasValue()",
            "bool",
            "format.named(1)",
        ),
        (
            "format.uri() == format.datetime()",
            "bool",
            "format.uri().validate(1)",
        ),
        ("semver('1.2.3')", "kubernetes.Semver", "semver(1)"),
        ("semver('v1', true).major()", "int", "semver('v1', 'a')"),
        (
            "isSemver('1.2.3') || isSemver('v1', true)",
            "bool",
            "isSemver(1)",
        ),
        (
            "semver('1.2.3').isLessThan(semver('1.2.4'))",
            "bool",
            "semver('1.2.3').isLessThan('1')",
        ),
        (
            "semver('1.2.3').isGreaterThan(semver('1.2.4'))",
            "bool",
            "semver('1.2.3').isGreaterThan(1)",
        ),
        (
            "semver('1.2.3').compareTo(semver('1.2.4'))",
            "int",
            "semver('1').compareTo(quantity('1'))",
        ),
        (
            "semver('1.2.3').minor() + semver('1.2.3').patch()",
            "int",
            "'1.2.3'.minor()",
        ),
    ]);
}

#[test]
fn permissions() {
    let decision = "kubernetes.authorization.Decision";
    let check = "kubernetes.authorization.ResourceCheck";
    let authorizer = "kubernetes.authorization.Authorizer";
    assert_calls(&[
        (
            "authorizer.path('/healthz').check('get')",
            decision,
            "authorizer.path(1)",
        ),
        (
            "authorizer.group('apps').resource('deployments')",
            check,
            "authorizer.resource('a')",
        ),
        (
            "authorizer.serviceAccount('a', 'b')",
            authorizer,
            "authorizer.serviceAccount('a')",
        ),
        (
            "authorizer.group('').resource('pods').subresource('log').namespace('a').name('b').check('get')",
            decision,
            "authorizer.group('').check('get')",
        ),
        (
            "authorizer.group('').resource('pods').fieldSelector('a=b').labelSelector('c')",
            check,
            "authorizer.fieldSelector('a')",
        ),
        (
            "authorizer.requestResource.check('get').allowed()",
            "bool",
            "authorizer.requestResource.allowed()",
        ),
        (
            "authorizer.requestResource.check('get').reason()",
            "string",
            "authorizer.requestResource.check(1)",
        ),
        (
            "authorizer.requestResource.check('get').errored()",
            "bool",
            "authorizer.errored()",
        ),
        (
            "authorizer.requestResource.check('get').error()",
            "string",
            "authorizer.error()",
        ),
    ]);
    let cases: [(&str, &[&str]); 1] = [(
        "authorizer.nope",
        &["1:11 unexpected failed resolution of 'kubernetes.authorization.Authorizer'"],
    )];
    assert_errors(&kubernetes(), &cases);
}

#[test]
fn arguments_of_format_have_different_types() {
    assert_types(&kubernetes(), &[("'%s %d'.format(['a', 1])", "string")]);
}
