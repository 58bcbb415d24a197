//! Rules of the forms that published definitions have: of routes, proxies and policies. They are accepted with the
//! definition, and judge objects as Kubernetes does.

use json_tree::{Value, json};
use object_model::FieldPath;

use crate::{Schema, broken_rules, schema_rules};

/// A list of references to parents, of which each pair of parent and section is unique: a loop in a loop.
fn parent_references() -> Value {
    json!({"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic",
        "items": {"type": "object", "required": ["name"], "properties": {
            "group": {"type": "string", "maxLength": 253, "default": "gateway.example.org"},
            "kind": {"type": "string", "maxLength": 63, "default": "Gateway"},
            "namespace": {"type": "string", "maxLength": 63},
            "name": {"type": "string", "maxLength": 253},
            "sectionName": {"type": "string", "maxLength": 253},
            "port": {"type": "integer", "minimum": 1}}},
        "x-kubernetes-validations": [
            {"message": "a reference needs a section or a port if its parent has several references",
             "rule": "self.all(p1, self.all(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name \
                && (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
                || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__)) \
                ? ((!has(p1.sectionName) || p1.sectionName == '') == (!has(p2.sectionName) || p2.sectionName == '') \
                && (!has(p1.port) || p1.port == 0) == (!has(p2.port) || p2.port == 0)) : true))"},
            {"message": "a section and port may be referred to once",
             "rule": "self.all(p1, self.exists_one(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name \
                && (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
                || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__)) \
                && (((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || p2.sectionName == '')) \
                || (has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == p2.sectionName)) \
                && (((!has(p1.port) || p1.port == 0) && (!has(p2.port) || p2.port == 0)) \
                || (has(p1.port) && has(p2.port) && p1.port == p2.port))))"}]})
}

/// A route with rules, matches, filters and weights.
fn route() -> Value {
    let filter = json!({"type": "object", "required": ["type"], "properties": {
        "type": {"type": "string", "enum": ["RequestHeaders", "Mirror", "Redirect"]},
        "requestHeaders": {"type": "object", "properties": {"set": {"type": "array", "maxItems": 16,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string", "maxLength": 256}, "value": {"type": "string", "maxLength": 4096}}}}}},
        "mirror": {"type": "object", "properties": {"percent": {"type": "integer"},
            "fraction": {"type": "object", "properties": {
                "numerator": {"type": "integer"}, "denominator": {"type": "integer", "default": 100}},
                "x-kubernetes-validations": [{"rule": "self.numerator <= self.denominator"}]}},
            "x-kubernetes-validations": [{"message": "only one of percent and fraction",
                "rule": "!(has(self.percent) && has(self.fraction))"}]}},
        "x-kubernetes-validations": [
            {"rule": "!(has(self.requestHeaders) && self.type != 'RequestHeaders')"},
            {"rule": "!(!has(self.requestHeaders) && self.type == 'RequestHeaders')"},
            {"rule": "!(has(self.mirror) && self.type != 'Mirror')"},
            {"rule": "!(!has(self.mirror) && self.type == 'Mirror')"}]});
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "parentRefs": parent_references(),
        "rules": {"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 253},
            "matches": {"type": "array", "maxItems": 64, "items": {"type": "object", "properties": {
                "path": {"type": "object", "properties": {
                    "type": {"type": "string", "default": "PathPrefix"},
                    "value": {"type": "string", "maxLength": 1024, "default": "/"}},
                    "x-kubernetes-validations": [
                        {"rule": "(self.type in ['Exact', 'PathPrefix']) ? self.value.startsWith('/') : true"},
                        {"rule": "(self.type in ['Exact', 'PathPrefix']) ? !self.value.contains('//') : true"},
                        {"rule": "(self.type in ['Exact', 'PathPrefix']) ? \
                            self.value.matches(r\"\"\"^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$\"\"\") : true"}]}}}},
            "filters": {"type": "array", "maxItems": 16, "items": filter,
                "x-kubernetes-validations": [
                    {"rule": "self.filter(f, f.type == 'RequestHeaders').size() <= 1",
                     "message": "request headers are changed once"}]},
            "backends": {"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {
                "name": {"type": "string", "maxLength": 253}, "weight": {"type": "integer", "default": 1}}}}},
            "x-kubernetes-validations": [
                {"rule": "(has(self.backends) && size(self.backends) > 0) ? (!has(self.filters) || \
                    self.filters.all(f, f.type != 'Redirect')) : true",
                 "message": "a redirect has no backends"}]},
            "x-kubernetes-validations": [
                {"message": "names of rules are unique",
                 "rule": "self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))"},
                {"message": "the total number of matches is at most 128",
                 "rule": "(self.size() > 0 ? (has(self[0].matches) ? self[0].matches.size() : 0) : 0) \
                    + (self.size() > 1 ? (has(self[1].matches) ? self[1].matches.size() : 0) : 0) \
                    + (self.size() > 2 ? (has(self[2].matches) ? self[2].matches.size() : 0) : 0) \
                    + (self.size() > 3 ? (has(self[3].matches) ? self[3].matches.size() : 0) : 0) \
                    + (self.size() > 4 ? (has(self[4].matches) ? self[4].matches.size() : 0) : 0) \
                    + (self.size() > 5 ? (has(self[5].matches) ? self[5].matches.size() : 0) : 0) \
                    + (self.size() > 6 ? (has(self[6].matches) ? self[6].matches.size() : 0) : 0) \
                    + (self.size() > 7 ? (has(self[7].matches) ? self[7].matches.size() : 0) : 0) \
                    + (self.size() > 8 ? (has(self[8].matches) ? self[8].matches.size() : 0) : 0) \
                    + (self.size() > 9 ? (has(self[9].matches) ? self[9].matches.size() : 0) : 0) \
                    + (self.size() > 10 ? (has(self[10].matches) ? self[10].matches.size() : 0) : 0) \
                    + (self.size() > 11 ? (has(self[11].matches) ? self[11].matches.size() : 0) : 0) \
                    + (self.size() > 12 ? (has(self[12].matches) ? self[12].matches.size() : 0) : 0) \
                    + (self.size() > 13 ? (has(self[13].matches) ? self[13].matches.size() : 0) : 0) \
                    + (self.size() > 14 ? (has(self[14].matches) ? self[14].matches.size() : 0) : 0) \
                    + (self.size() > 15 ? (has(self[15].matches) ? self[15].matches.size() : 0) : 0) <= 128"}]}}}}})
}

/// A proxy whose rewrite of a cookie has something to rewrite, and whose resource has a name of a host.
fn proxy() -> Value {
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "hosts": {"type": "array", "maxItems": 64, "x-kubernetes-list-type": "set",
                "items": {"type": "string", "maxLength": 253},
                "x-kubernetes-validations": [
                    {"rule": "self.all(h, h == '*' || !format.dns1123Subdomain().validate(h.startsWith('*.') \
                        ? h.substring(2) : h).hasValue())", "message": "a host is a name of the DNS"}]},
            "cookies": {"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {
                "name": {"type": "string", "maxLength": 4096, "pattern": "^[^()<>@,;:\\\"/[ ]+$"},
                "path": {"type": "string", "maxLength": 4096}, "secure": {"type": "boolean"}},
                "x-kubernetes-validations": [
                    {"rule": "has(self.path) || has(self.secure)", "messageExpression":
                        "'the cookie %s has nothing to rewrite'.format([self.?name.orValue('')])"}]}},
            "addresses": {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 64},
                "x-kubernetes-validations": [
                    {"rule": "self.all(a, isCIDR(a) ? cidr(a).masked() == cidr(a) : isIP(a))"}]}}}}})
}

/// A policy of tokens whose keys come from a URL, with a version that never goes back.
fn policy() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "version": {"type": "string", "maxLength": 64, "x-kubernetes-validations": [
            {"rule": "isSemver(self, true)"},
            {"rule": "!semver(self, true).isLessThan(oldSelf.hasValue() ? semver(oldSelf.value(), true) : semver('0.0.0'))",
             "optionalOldSelf": true, "message": "the version goes back"}]},
        "memory": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
            {"rule": "type(self) == int ? self > 0 : quantity(self).isGreaterThan(quantity('1Mi'))"}]},
        "tokens": {"type": "array", "maxItems": 64, "items": {"type": "object", "required": ["issuer"], "properties": {
            "issuer": {"type": "string", "minLength": 1, "maxLength": 2048},
            "keysFrom": {"type": "string", "maxLength": 2048, "x-kubernetes-validations": [
                {"rule": "url(self).getScheme() in ['http', 'https']", "message": "keys come by http or https"}]},
            "keys": {"type": "string", "maxLength": 65536}},
            "x-kubernetes-validations": [
                {"rule": "(has(self.keysFrom) ? 1 : 0) + (has(self.keys) ? 1 : 0) <= 1",
                 "message": "only one of keysFrom and keys"}]}}}}}})
}

/// The errors of the definition.
fn definition_errors(schema: &Value) -> Vec<String> {
    let errors = schema_rules::check(schema, false, &FieldPath::root("schema"));
    errors.iter().map(ToString::to_string).collect()
}

fn messages(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    let errors = broken_rules(object, old, &Schema::parse(schema));
    errors.iter().map(ToString::to_string).collect()
}

// findings-2 K6, K12
#[test]
fn definitions_with_such_rules_are_accepted() {
    for (name, schema) in [("route", route()), ("proxy", proxy()), ("policy", policy())] {
        assert_eq!(definition_errors(&schema), [""; 0], "{name}");
    }
}

// findings-2 K6
#[test]
fn a_route_is_judged() {
    let parent = |name: &str, section: Option<&str>| {
        let mut parent = json!({"group": "gateway.example.org", "kind": "Gateway", "name": name});
        if let Some(section) = section {
            parent["sectionName"] = json!(section);
        }
        parent
    };
    let object =
        |parents: Value, rules: Value| json!({"spec": {"parentRefs": parents, "rules": rules}});
    let rule = json!({"name": "a", "matches": [{"path": {"type": "PathPrefix", "value": "/a/b"}}],
        "filters": [{"type": "Mirror", "mirror": {"percent": 5}}], "backends": [{"name": "x", "weight": 1}]});
    let good = object(
        json!([
            parent("a", Some("x")),
            parent("a", Some("y")),
            parent("b", None)
        ]),
        json!([rule]),
    );
    assert_eq!(messages(&route(), &good, None), [""; 0]);
    for (parents, rules, expected) in [
        (
            json!([parent("a", Some("x")), parent("a", None)]),
            json!([]),
            "needs a section or a port",
        ),
        (
            json!([parent("a", Some("x")), parent("a", Some("x"))]),
            json!([]),
            "may be referred to once",
        ),
        (
            json!([]),
            json!([{"matches": [{"path": {"type": "Exact", "value": "a"}}]}]),
            "self.value.startsWith('/')",
        ),
        (
            json!([]),
            json!([{"matches": [{"path": {"type": "Exact", "value": "/%zz"}}]}]),
            "self.value.matches",
        ),
        (
            json!([]),
            json!([{"filters": [{"type": "Redirect"}], "backends": [{"name": "x"}]}]),
            "a redirect has no backends",
        ),
        (
            json!([]),
            json!([{"filters": [{"type": "Mirror"}]}]),
            "self.type == 'Mirror'",
        ),
        (
            json!([]),
            json!([{"name": "a"}, {"name": "a"}]),
            "names of rules are unique",
        ),
        (
            json!([]),
            json!(vec![json!({"matches": vec![json!({}); 64]}); 3]),
            "the total number of matches",
        ),
    ] {
        let found = messages(&route(), &object(parents, rules), None);
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{expected}: {found:?}"
        );
    }
}

// findings-2 K6, K12, K13
#[test]
fn proxies_and_policies_are_judged() {
    let spec = |spec: Value| json!({"spec": spec});
    for (schema, good) in [
        (
            proxy(),
            json!({"hosts": ["*.a.example", "*", "b.example"], "addresses": ["10.0.0.0/8", "::1"],
            "cookies": [{"name": "a", "path": "/"}]}),
        ),
        (
            policy(),
            json!({"version": "v1.2", "memory": "2Gi", "tokens": [
            {"issuer": "x", "keysFrom": "https://a.example/keys"}, {"issuer": "y", "keys": "{}"}]}),
        ),
    ] {
        assert_eq!(messages(&schema, &spec(good), None), [""; 0]);
    }
    for (schema, bad, expected) in [
        (
            proxy(),
            json!({"hosts": ["a_b"]}),
            "a host is a name of the DNS",
        ),
        (
            proxy(),
            json!({"addresses": ["10.0.0.1/8"]}),
            "cidr(a).masked() == cidr(a)",
        ),
        (
            proxy(),
            json!({"cookies": [{"name": "n"}]}),
            "the cookie n has nothing to rewrite",
        ),
        (policy(), json!({"version": "one"}), "isSemver(self, true)"),
        (policy(), json!({"memory": 0}), "quantity(self)"),
        (
            policy(),
            json!({"tokens": [{"issuer": "x", "keysFrom": "ftp://a"}]}),
            "keys come by http or https",
        ),
        (
            policy(),
            json!({"tokens": [{"issuer": "x", "keysFrom": "../a"}]}),
            "URL parse error",
        ),
        (
            policy(),
            json!({"tokens": [{"issuer": "x", "keysFrom": "https://a", "keys": "{}"}]}),
            "only one of keysFrom and keys",
        ),
    ] {
        let found = messages(&schema, &spec(bad), None);
        assert!(
            found.iter().any(|text| text.contains(expected)),
            "{expected}: {found:?}"
        );
    }
}

// findings-2 E5
#[test]
fn a_rule_about_an_optional_old_value_is_judged_always() {
    let version = |version: &str| json!({"spec": {"version": version}});
    let schema = policy();
    assert_eq!(messages(&schema, &version("1.0.0"), None), [""; 0]);
    assert_eq!(
        messages(&schema, &version("1.1.0"), Some(&version("1.0.0"))),
        [""; 0]
    );
    let found = messages(&schema, &version("0.9.0"), Some(&version("1.0.0")));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("the version goes back"), "{found:?}");
    // An element of a list without keys has no old value, so that it is new each time.
    let elements = json!({"type": "array", "items": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "oldSelf.hasValue() ? self > oldSelf.value() : self < 10",
            "optionalOldSelf": true}]}});
    assert_eq!(messages(&elements, &json!([1]), Some(&json!([5]))), [""; 0]);
    let found = messages(&elements, &json!([11]), Some(&json!([1])));
    assert_eq!(found.len(), 1, "{found:?}");
}
