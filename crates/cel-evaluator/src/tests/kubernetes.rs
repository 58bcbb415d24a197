use super::*;

#[test]
fn urls() {
    assert_true(
        &[
            "url('https://user:pass@example.com:80/path?query=val#fragment').getScheme() == 'https'",
            "url('https://example.com:80/').getHost() == 'example.com:80' && url('/path').getHost() == ''",
            "url('https://[::1]:80/').getHost() == '[::1]:80' && url('https://[::1]/').getHost() == '[::1]'",
            "url('https://example.com:80/').getHostname() == 'example.com'",
            "url('https://[::1]:80/').getHostname() == '::1' && url('https://127.0.0.1:80/').getHostname() == '127.0.0.1'",
            "url('https://example.com:80/').getPort() == '80' && url('https://example.com/').getPort() == ''",
            "url('https://example.com/path').getEscapedPath() == '/path'",
            "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
            "url('https://example.com').getEscapedPath() == '' && url('/a/b').getEscapedPath() == '/a/b'",
            "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
            "url('https://example.com/path?key with spaces=value with spaces').getQuery() \
             == {'key with spaces': ['value with spaces']}",
            "url('https://example.com/path?').getQuery() == {} && url('https://example.com/path').getQuery() == {}",
            "url('https://example.com/?a=x%20y+z').getQuery()['a'] == ['x y z']",
            "url('HTTP://a').getScheme() == 'http' && url('/path').getScheme() == ''",
            "url('https://a.example/x#f?g').getEscapedPath() == '/x'",
            "url('https://a.example') == url('https://a.example') && url('/a') != url('/b')",
            "isURL('https://user:pass@example.com:80/path?query=val#fragment') && isURL('/absolute-path')",
            "!isURL('https://a:b:c/') && !isURL('../relative-path') && !isURL('') && !isURL('https://a b/')",
            "!isURL('https://[zz]/') && !isURL('https://a/%zz') && isURL('mailto:a@b') && !isURL(':a')",
        ],
        &[],
    );
    assert_errors(
        &[
            (
                "url('../relative-path')",
                "URL parse error during conversion from string: parse \"../relative-path\": invalid URI for request",
            ),
            ("url('https://a:b:c/')", "invalid port \":c\" after host"),
        ],
        &[],
    );
}

#[test]
fn addresses() {
    assert_true(
        &[
            "ip('127.0.0.1').family() == 4 && ip('::1').family() == 6 && type(ip('::1')) == net.IP",
            "isIP('127.0.0.1') && isIP('::1') && !isIP('127.0.0.256') && !isIP(':::1') && !isIP('')",
            "!isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0') && !isIP('010.0.0.1') && !isIP('10.0.0')",
            "ip.isCanonical('127.0.0.1') && ip.isCanonical('2001:db8::abcd')",
            "!ip.isCanonical('2001:DB8::ABCD') && !ip.isCanonical('2001:db8::0:0:0:abcd')",
            "ip('0.0.0.0').isUnspecified() && ip('::').isUnspecified() && !ip('127.0.0.1').isUnspecified()",
            "ip('127.0.0.1').isLoopback() && ip('::1').isLoopback() && !ip('2001:db8::abcd').isLoopback()",
            "ip('224.0.0.1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
            "ip('ff02::1').isLinkLocalMulticast() && !ip('fd00::1').isLinkLocalMulticast()",
            "ip('169.254.169.254').isLinkLocalUnicast() && !ip('192.168.0.1').isLinkLocalUnicast()",
            "ip('fe80::1').isLinkLocalUnicast() && !ip('fd80::1').isLinkLocalUnicast()",
            "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
            "ip('2001:db8::abcd').isGlobalUnicast() && !ip('ff00::1').isGlobalUnicast()",
            "string(ip('2001:DB8::ABCD')) == '2001:db8::abcd' && ip('10.0.0.1') == ip('10.0.0.1')",
        ],
        &[],
    );
    assert_errors(
        &[
            (
                "ip('192.168.0.1.0')",
                "parse error during conversion from string",
            ),
            (
                "ip('::ffff:1.2.3.4')",
                "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed",
            ),
            ("ip.isCanonical('127.0.0.1.0')", "parse error"),
        ],
        &[],
    );
}

#[test]
fn address_ranges() {
    assert_true(
        &[
            "isCIDR('192.168.0.0/16') && isCIDR('::1/128') && !isCIDR('192.168.0.0/33') && !isCIDR('::1/129')",
            "!isCIDR('192.168.0.0') && !isCIDR('192.168.0.0/') && !isCIDR('192.168.0.0/01') && !isCIDR('::ffff:1.2.3.4/24')",
            "cidr('192.168.0.0/24').containsIP(ip('192.168.0.1')) && !cidr('192.168.0.0/24').containsIP('192.168.1.1')",
            "cidr('2001:db8::/32').containsIP('2001:db8::1') && !cidr('10.0.0.0/8').containsIP('::1')",
            "cidr('192.168.0.0/16').containsCIDR(cidr('192.168.10.0/24'))",
            "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && !cidr('192.168.1.0/24').containsCIDR('192.168.2.0/24')",
            "!cidr('192.168.1.0/24').containsCIDR('192.168.0.0/16') && cidr('10.0.0.0/8').containsCIDR('10.0.0.0/8')",
            "cidr('192.168.0.1/24').ip() == ip('192.168.0.1') && cidr('::1/128').ip().family() == 6",
            "cidr('192.168.0.1/24').masked() == cidr('192.168.0.0/24')",
            "cidr('192.168.0.1/24') != cidr('192.168.0.1/24').masked()",
            "cidr('192.168.0.0/16').prefixLength() == 16 && cidr('::1/128').prefixLength() == 128",
            "string(cidr('192.168.0.1/24')) == '192.168.0.1/24' && type(cidr('::/0')) == net.CIDR",
        ],
        &[],
    );
    assert_errors(
        &[
            (
                "cidr('192.168.0.0/33')",
                "network address parse error during conversion from string",
            ),
            ("cidr('10.0.0.0/8').containsIP('x')", "parse error"),
        ],
        &[],
    );
}

#[test]
fn named_formats() {
    assert_true(
        &[
            "!format.dns1123Label().validate('my-label-name').hasValue()",
            "format.dns1123Label().validate('contains a space').value()[0].startsWith('a lowercase RFC 1123 label')",
            "!format.dns1123Subdomain().validate('apiextensions.k8s.io').hasValue()",
            "format.dns1123Subdomain().validate('a_b').hasValue() && format.dns1035Label().validate('1a').hasValue()",
            "!format.qualifiedName().validate('apiextensions.k8s.io/v1beta1').hasValue()",
            "format.qualifiedName().validate('/a').value() == ['prefix part must be non-empty']",
            "!format.dns1123LabelPrefix().validate('my-label-prefix-').hasValue()",
            "format.dns1123Label().validate('my-label-prefix-').hasValue()",
            "!format.dns1123SubdomainPrefix().validate('mysubdomain.prefix.-').hasValue()",
            "!format.dns1035LabelPrefix().validate('my-label-prefix-').hasValue()",
            "!format.labelValue().validate('my-cool-label-Value').hasValue()",
            "format.labelValue().validate('my-cool-label-Value!!\\n').hasValue()",
            "!format.uri().validate('http://example.com').hasValue() && format.uri().validate('relative').hasValue()",
            "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
            "format.uuid().validate('123e4567').value() == ['does not match the UUID format']",
            "!format.byte().validate('aGVsbG8=').hasValue() && format.byte().validate('a?').value() == ['invalid base64']",
            "!format.date().validate('2021-01-01').hasValue() && format.date().validate('2021-13-01').value() == ['invalid date']",
            "!format.datetime().validate('2021-01-01T00:00:00Z').hasValue()",
            "format.datetime().validate('2021-01-01').value() == ['invalid datetime']",
            "format.named('dns1123Label').value().validate('a').hasValue() == false",
            "!format.named('none').hasValue() && format.named('uuid').value() == format.uuid()",
        ],
        &[],
    );
}

#[test]
fn quantities() {
    assert_true(
        &[
            "isQuantity('20') && isQuantity('20M') && isQuantity('20Mi') && isQuantity('1.3Gi') && isQuantity('10000k')",
            "!isQuantity('20Mo') && !isQuantity('10Mm') && !isQuantity('Three') && !isQuantity('1,3G') && !isQuantity('200K')",
            "quantity('12Mi') == quantity('12288Ki') && quantity('200M').compareTo(quantity('0.2G')) == 0",
            "quantity('50M').isLessThan(quantity('50Mi')) && quantity('50Mi').isGreaterThan(quantity('50M'))",
            "quantity('50M').compareTo(quantity('50Mi')) == -1 && quantity('50Mi').compareTo(quantity('50M')) == 1",
            "quantity('50k').add(quantity('20')) == quantity('50.02k') && quantity('50k').add(20) == quantity('50020')",
            "quantity('50k').sub(quantity('20')) == quantity('49.98k') && quantity('50k').sub(20000) == quantity('30k')",
            "quantity('50k').add(20).sub(quantity('100k')).sub(-50000) == quantity('20')",
            "quantity('50k').isInteger() && quantity('50000000G').isInteger() && !quantity('0.5').isInteger()",
            "!quantity('9999999999999999999999999999999999999G').isInteger()",
            "quantity('50k').asInteger() == 50000 && quantity('50.703k').asApproximateFloat() == 50703.0",
            "quantity('0.5').asApproximateFloat() == 0.5",
            "sign(quantity('50k')) == 1 && sign(quantity('-50k')) == -1 && sign(quantity('0')) == 0",
        ],
        &[],
    );
    assert_errors(
        &[
            (
                "quantity('10Mo')",
                "quantities must match the regular expression",
            ),
            (
                "quantity('0.5').asInteger()",
                "cannot convert value to integer",
            ),
        ],
        &[],
    );
}

#[test]
fn versions() {
    assert_true(
        &[
            "semver('1.2.3').major() == 1 && semver('1.2.3').minor() == 2 && semver('1.2.3').patch() == 3",
            "isSemver('1.2.3-beta.1+build.1') && !isSemver('v1.0') && !isSemver('hello') && !isSemver('1.0')",
            "isSemver('v1.0.0', true) && isSemver('1.0', true) && isSemver('01.01.01', true) && !isSemver('1.0-a', true)",
            "semver('v1', true) == semver('1.0.0') && semver('01.02.003', true) == semver('1.2.3')",
            "!isSemver('v1.0.0', false) && !isSemver(' 1.0.0', true) && !isSemver('1.0.0.0', true)",
            "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('2.0.0').isGreaterThan(semver('2.0.0-rc.1'))",
            "semver('1.2.3').compareTo(semver('1.2.3')) == 0 && semver('1.2.3').compareTo(semver('2.0.0')) == -1",
            "semver('1.2.3').compareTo(semver('0.1.2')) == 1 && semver('1.0.0-alpha') == semver('1.0.0-alpha')",
        ],
        &[],
    );
    assert_errors(&[("semver('v1.0')", "is not a semantic version")], &[]);
}

// findings-2 E6, K13
#[test]
fn searches_with_patterns() {
    assert_true(
        &[
            "'abc 123'.find('[0-9]*') == '' && 'abc 123'.find('[0-9]+') == '123' && 'abc'.find('[0-9]+') == ''",
            "'123 abc 456'.findAll('[0-9]*') == ['123', '', '', '', '', '456']",
            "'123 abc 456'.findAll('[0-9]+', 1) == ['123'] && '123 abc 456'.findAll('xyz') == []",
            "'1 2 3'.findAll('[0-9]', 0) == [] && '1 2 3'.findAll('[0-9]', -1) == ['1', '2', '3']",
            "'a]b'.matches('^[^[ ]+$') && !'a[b'.matches('^[^[ ]+$') && matches('abc', '^a')",
            "'a&b'.matches('^[a&&b]+$') && 'a~b'.matches('^[a~~b]+$')",
            "!'\u{661}'.matches('^\\\\d$') && '1'.matches('^\\\\d$') && ['[0-9]'].all(p, '7'.matches(p))",
        ],
        &[],
    );
    assert_errors(
        &[
            ("'a'.matches(')')", "error parsing regexp"),
            ("['('].all(p, 'a'.matches(p))", "error parsing regexp"),
        ],
        &[],
    );
}

#[test]
fn json_pointers() {
    assert_true(
        &["jsonpatch.escapeKey('k8s.io/my~label') == 'k8s.io~1my~0label'"],
        &[],
    );
}
