//! Names in this group: of drivers, pools, attributes, and requests in a claim.

use object_model::{FieldError, FieldPath, names};

use crate::validation::field::{Field, Rules};
pub(super) use crate::validation::volume_sources::driver;

/// Maximum length of the domain of an attribute, in bytes.
const DOMAIN_BYTES_MAX: usize = 63;
/// Maximum length of the name of an attribute, in bytes.
const ID_BYTES_MAX: usize = 32;

/// Checks the name of a pool of devices: subdomains that are separated by slashes.
pub(super) fn pool(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    if at.is_empty() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > names::SUBDOMAIN_BYTES_MAX {
        errors.push(FieldError::too_long(&at.path(), names::SUBDOMAIN_BYTES_MAX));
    }
    for part in at.text().split('/') {
        let clauses = names::dns_subdomain(part).into_iter();
        errors.extend(clauses.map(|clause| FieldError::invalid(&at.path(), part, clause)));
    }
}

/// Checks the name of an attribute or a capacity, with or without its domain.
pub(super) fn qualified(name: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(id, path, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(
                    path,
                    "",
                    "the domain must not be empty",
                ));
            } else {
                if domain.len() > DOMAIN_BYTES_MAX {
                    errors.push(FieldError::too_long(path, DOMAIN_BYTES_MAX));
                }
                let clauses = names::dns_subdomain(&domain.to_lowercase()).into_iter();
                errors.extend(clauses.map(|clause| FieldError::invalid(path, *domain, clause)));
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(id, path, errors);
            }
        }
        _ => errors.push(FieldError::invalid(
            path,
            name,
            "must not contain more than one slash",
        )),
    }
}

/// Checks the name of an attribute with its domain.
pub(super) fn fully_qualified(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    qualified(at.text(), &at.path(), errors);
    if !at.text().contains('/') {
        errors.push(
            at.invalid("a fully qualified name must be a domain and a name separated by a slash"),
        );
    }
}

fn identifier(id: &str, path: &FieldPath, errors: &mut Vec<FieldError>) {
    if id.len() > ID_BYTES_MAX {
        errors.push(FieldError::too_long(path, ID_BYTES_MAX));
    }
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let fits = id.bytes().next().is_some_and(is_letter)
        && id.bytes().all(|b| is_letter(b) || b.is_ascii_digit());
    if !fits {
        let rule = "a valid C identifier must start with alphabetic character or '_', followed by \
                    a string of alphanumeric characters or '_'";
        let examples = ["my_name", "MY_NAME", "MyName"];
        let detail = names::mismatch(rule, "[A-Za-z_][A-Za-z0-9_]*", &examples);
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// Checks the id of a share of a device.
pub(super) fn uid(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let text = at.text();
    let hex = |part: &str| {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        part.bytes().all(digit)
    };
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    if lengths != [8, 4, 4, 4, 12] || !text.split('-').all(hex) {
        errors.push(at.invalid(
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with \
             lowercase hexadecimal characters",
        ));
    }
}

/// Checks a toleration of the taints of devices.
pub(super) fn toleration(at: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    errors.check_text_if_set(&at.get("key"), names::qualified_name);
    let (operator, value) = (at.get("operator"), at.get("value"));
    match operator.text() {
        "Exists" if !value.is_empty() => {
            errors.push(value.invalid("must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => errors.check_text(&value, names::label_value),
        _ => errors.check_one_of(&operator, &["Equal", "Exists"]),
    }
    errors.check_one_of_if_set(&at.get("effect"), EFFECTS);
}

/// The effects of a device's taint.
pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C43
    #[test]
    fn names_of_attributes_have_one_domain() {
        let cases = [
            ("memory", 0),
            ("dra.example.com/memory", 0),
            ("a/b/c", 1),
            ("/b", 1),
            ("a/", 1),
            ("1a", 1),
            ("-/x", 1),
        ];
        for (name, count) in cases {
            let mut errors = Vec::new();
            qualified(name, &FieldPath::root("x"), &mut errors);
            assert_eq!(errors.len(), count, "{name}: {errors:?}");
        }
        let mut errors = Vec::new();
        let name = json!("memory");
        fully_qualified(&Field::root(&name), &mut errors);
        assert!(errors[0].detail.starts_with("a fully qualified name"));
    }

    /// findings C43
    #[test]
    fn pools_are_subdomains_with_slashes() {
        for (name, count) in [("node/gpus.x", 0), ("", 1), ("A", 1), ("a//b", 1)] {
            let name = json!(name);
            let mut errors = Vec::new();
            pool(&Field::root(&name), &mut errors);
            assert_eq!(errors.len(), count, "{name}: {errors:?}");
        }
    }
}
