//! Names of devices: `vendor.com/class=name`. Pure.

use std::collections::BTreeMap;

/// Prefix of the annotations that name devices.
const ANNOTATION_PREFIX: &str = "cdi.k8s.io/";

/// Whether a kind is `vendor/class`.
pub(super) fn is_kind(kind: &str) -> bool {
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    let is_word = |word: &str, inner: &[u8]| {
        let (first, last) = (word.bytes().next(), word.bytes().next_back());
        first.is_some_and(|byte| byte.is_ascii_alphabetic())
            && last.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || inner.contains(&byte))
    };
    is_word(vendor, b"_-.") && is_word(class, b"_-")
}

/// Whether a text is the name of a device in its kind.
pub(super) fn is_device_name(name: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte);
    is_end(name.bytes().next()) && is_end(name.bytes().next_back()) && name.bytes().all(is_inner)
}

/// The devices that annotations name (`cdi.k8s.io/any: vendor.com/class=a,vendor.com/class=b`).
pub fn annotated_devices(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let of_cdi = annotations
        .iter()
        .filter(|(key, _)| key.starts_with(ANNOTATION_PREFIX));
    let names = of_cdi.flat_map(|(_, value)| value.split(','));
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_form_of_the_specification() {
        for kind in ["vendor.com/gpu", "v-1_a/net-device_1", "a/b"] {
            assert!(is_kind(kind), "{kind}");
        }
        for kind in [
            "vendor.com",
            "1v/gpu",
            "v./gpu",
            "v/g.u",
            "v/",
            "/g",
            "v/g/h",
        ] {
            assert!(!is_kind(kind), "{kind}");
        }
        for name in ["0", "gpu-0:1.2_a", "all"] {
            assert!(is_device_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a/b", "a b"] {
            assert!(!is_device_name(name), "{name}");
        }
    }

    #[test]
    fn annotations_name_devices() {
        let annotations = [("cdi.k8s.io/x", "v/c=a,v/c=b"), ("other", "v/c=z")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(annotated_devices(&annotations.into()), ["v/c=a", "v/c=b"]);
    }
}
