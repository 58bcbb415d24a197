//! Valid names, label keys and values, and the texts of errors. Each check returns all errors as clauses; an empty
//! list means that the text is valid.

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SEARCH_DOMAIN: &str =
    "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

/// Maximum length in bytes of a DNS label, a label value, and the name part of a label key.
pub const LABEL_BYTES_MAX: usize = 63;
/// Maximum length of a DNS subdomain in bytes.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Maximum size of all annotations of one object together, in bytes.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The error of a text of more than `max` bytes.
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// The error of a number outside of a range.
pub fn outside_range(min: i64, max: i64) -> String {
    format!("must be between {min} and {max}, inclusive")
}

/// An error that ends with examples and the regular expression that the text must match.
pub fn mismatch(rule: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{rule} (regex used for validation is '{expression}')");
    }
    let quoted: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    let examples = quoted.join(" or ");
    format!("{rule} (e.g. {examples}regex used for validation is '{expression}')")
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn has_label_form(text: &str) -> bool {
    is_label(text.as_bytes())
}

fn is_label(bytes: &[u8]) -> bool {
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last))
        if is_lower_alphanumeric(first) && is_lower_alphanumeric(last))
        && bytes.iter().all(|&b| is_lower_alphanumeric(b) || b == b'-')
}

fn has_subdomain_form(text: &str) -> bool {
    text.as_bytes().split(|byte| *byte == b'.').all(is_label)
}

fn has_qualified_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last))
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The errors of a lower-case RFC 1123 label: names of namespaces, containers, ports.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !has_label_form(text) {
        if has_subdomain_form(text) {
            errors.push("must not contain dots".to_owned());
        } else {
            let rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric \
                        characters or '-', and must start and end with an alphanumeric character";
            errors.push(mismatch(rule, LABEL, &["my-name", "123-abc"]));
        }
    }
    errors
}

/// The errors of a lower-case RFC 1123 subdomain: names of most objects.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    if !has_subdomain_form(text) {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                    characters, '-' or '.', and must start and end with an alphanumeric character";
        errors.push(mismatch(rule, SUBDOMAIN, &["example.com"]));
    }
    errors
}

/// The errors of a DNS search domain: a subdomain whose parts may contain underscores.
pub fn search_domain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    let is_part = |part: &str| {
        let rest = part.strip_prefix('_').unwrap_or(part);
        !rest.starts_with('_') && !rest.ends_with('_') && has_label_form(&rest.replace('_', "-"))
    };
    if !text.split('.').all(is_part) {
        let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                    characters, '_', '-' or '.', and must start and end with an alphanumeric \
                    character";
        errors.push(mismatch(rule, SEARCH_DOMAIN, &["example.com"]));
    }
    errors
}

/// The errors of an RFC 1035 label: names of Services.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    let starts_with_letter = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if !(starts_with_letter && has_label_form(text)) {
        let rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
                    start with an alphabetic character, and end with an alphanumeric character";
        errors.push(mismatch(rule, LABEL_1035, &["my-name", "abc-123"]));
    }
    errors
}

/// The errors of a label key, annotation key or resource name, with or without a prefix.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let rule = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                with an alphanumeric character";
    let examples = ["MyName", "my.name", "123-abc"];
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            let rule = mismatch(&format!("a qualified name {rule}"), QUALIFIED, &examples);
            let hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            errors.push(format!("{rule} {hint}"));
            return errors;
        }
        Some(("", name)) => {
            errors.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            let wrong = dns_subdomain(prefix).into_iter();
            errors.extend(wrong.map(|error| format!("prefix part {error}")));
            name
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_BYTES_MAX {
        errors.push(format!("name part {}", too_long(LABEL_BYTES_MAX)));
    }
    if !has_qualified_form(name) {
        errors.push(mismatch(&format!("name part {rule}"), QUALIFIED, &examples));
    }
    errors
}

/// The errors of a label's value: at most 63 characters, may be empty.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_BYTES_MAX {
        errors.push(too_long(LABEL_BYTES_MAX));
    }
    if !text.is_empty() && !has_qualified_form(text) {
        let rule = "a valid label must be an empty string or consist of alphanumeric characters, \
                    '-', '_' or '.', and must start and end with an alphanumeric character";
        errors.push(mismatch(
            rule,
            LABEL_VALUE,
            &["MyValue", "my_value", "12345"],
        ));
    }
    errors
}

/// The errors of a key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > SUBDOMAIN_BYTES_MAX {
        errors.push(too_long(SUBDOMAIN_BYTES_MAX));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(fits) {
        let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        let examples = ["key.name", "KEY_NAME", "key-name"];
        errors.push(mismatch(rule, "[-._a-zA-Z0-9]+", &examples));
    }
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

/// The errors of the name of an environment variable.
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    let printable = |c: char| (' '..='~').contains(&c) && c != '=';
    if text.chars().all(printable) {
        return Vec::new();
    }
    let rule = "a valid environment variable name must consist only of printable ASCII characters \
                other than '='";
    vec![rule.to_owned()]
}

/// The errors of the name of a container's port.
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(too_long(15));
    }
    let fits = |b: u8| is_lower_alphanumeric(b) || b == b'-';
    if text.is_empty() || !text.bytes().all(fits) {
        let clause = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
        errors.push(clause.to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

/// The errors of a port number: 1 to 65535.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec![outside_range(1, 65535)]
    }
}

/// The errors of an HTTP header's name: letters, digits and `-`.
pub fn http_header_name(text: &str) -> Vec<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if !text.is_empty() && text.bytes().all(fits) {
        return Vec::new();
    }
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![mismatch(rule, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The errors of a text that must be a single segment of a path: names of roles and bindings.
pub fn path_segment(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text == "." || text == ".." {
        errors.push(format!("may not be '{text}'"));
    }
    for character in ['/', '%'] {
        if text.contains(character) {
            errors.push(format!("may not contain '{character}'"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains() {
        for fine in ["a", "_tcp.example.com", "a_b.c", "a-b.example"] {
            assert!(search_domain(fine).is_empty(), "{fine}");
        }
        for wrong in ["", "a_", "__a", "a..b", "A", "-a"] {
            assert_eq!(search_domain(wrong).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn dns_labels() {
        assert!(dns_label("web-0").is_empty());
        assert_eq!(dns_label("a.b"), ["must not contain dots"]);
        assert_eq!(
            dns_label("Web"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                 or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  \
                 or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns_label(&"a".repeat(64)),
            ["must be no more than 63 bytes"]
        );
        assert!(!dns_label("").is_empty());
        assert!(!dns_1035_label("0web").is_empty());
    }

    #[test]
    fn subdomains() {
        assert!(dns_subdomain("a.b-c.d0").is_empty());
        for text in ["", "a..b", ".a", "a.", "a_b", "A"] {
            assert_eq!(dns_subdomain(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn label_keys_and_values() {
        assert!(qualified_name("app.kubernetes.io/name").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/").len(), 2);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(label_value("").is_empty());
        assert!(!label_value("a b").is_empty());
    }

    #[test]
    fn keys_ports_and_variables() {
        assert!(config_key("..data").contains(&"must not start with '..'".to_owned()));
        assert!(port_name("http").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert!(env_var_name("my var").is_empty());
        assert!(!env_var_name("a=b").is_empty());
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }
}
