//! The warning for clients of a deprecated version.

use json_tree::Value;

use crate::definition_fields::versions;
use crate::version_order::rank;

/// Maximum length of the warning text in a definition, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// The deprecation warning of a version: the definition's text, or a text with the best served version that is newer
/// and not deprecated. `None` for a version that is not deprecated.
pub(crate) fn warning(definition: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    if let Some(text) = version["deprecationWarning"].as_str() {
        return Some(text.to_owned());
    }
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
    let version_name = text(&version["name"]);
    let others = versions(definition).iter();
    let others = others.filter(|other| other["served"] == true && other["deprecated"] != true);
    let names = others.filter_map(|other| other["name"].as_str());
    let better = names.filter(|name| rank(name) > rank(&version_name));
    let instead = better.max_by_key(|name| rank(name));
    let instead = instead.map(|name| format!("; use {group}/{name} {kind}"));
    let instead = instead.unwrap_or_default();
    Some(format!(
        "{group}/{version_name} {kind} is deprecated{instead}"
    ))
}

/// The errors of a version's deprecation warning, with Kubernetes' texts.
pub(crate) fn complaints(version: &Value) -> Vec<String> {
    let Some(text) = version["deprecationWarning"].as_str() else {
        return Vec::new();
    };
    if version["deprecated"] != true {
        return vec!["can only be set for deprecated versions".to_owned()];
    }
    let mut all = Vec::new();
    if text.len() > TEXT_BYTES_MAX {
        all.push(format!("must be <= {TEXT_BYTES_MAX} characters long"));
    }
    if text.is_empty() {
        all.push("must not be an empty string".to_owned());
    }
    let is_printed = |c: char| c == ' ' || !(c.is_control() || c.is_whitespace());
    if let Some((index, _)) = text.char_indices().find(|(_, c)| !is_printed(*c)) {
        all.push(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index \
             {index}"
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn first_warning(versions: Value) -> Option<String> {
        let definition = json!({"spec": {"group": "g.io", "names": {"kind": "Cup"},
            "versions": versions}});
        warning(&definition, &definition["spec"]["versions"][0])
    }

    #[test]
    fn the_best_newer_version_is_named() {
        let version = |name: &str| json!({"name": name, "served": true});
        let old = json!({"name": "v1beta1", "served": true, "deprecated": true});
        assert_eq!(first_warning(json!([version("v1")])), None);
        let alone = Some("g.io/v1beta1 Cup is deprecated".to_owned());
        assert_eq!(first_warning(json!([old])), alone);
        let hidden = json!({"name": "v3", "served": false});
        let worse = json!({"name": "v2", "served": true, "deprecated": true});
        let others = json!([old, version("v1alpha9"), hidden, worse]);
        assert_eq!(first_warning(others), alone);
        let others = json!([old, version("v1beta2"), version("v1"), version("v2alpha1")]);
        let instead = "g.io/v1beta1 Cup is deprecated; use g.io/v1 Cup";
        assert_eq!(first_warning(others).as_deref(), Some(instead));
        let mut deprecated = old;
        deprecated["deprecationWarning"] = json!("use saucers");
        assert_eq!(
            first_warning(json!([deprecated])).as_deref(),
            Some("use saucers")
        );
    }

    #[test]
    fn a_text_is_short_and_of_a_deprecated_version() {
        let wrong = |deprecated: bool, text: &str| {
            complaints(&json!({"deprecated": deprecated, "deprecationWarning": text}))
        };
        assert_eq!(wrong(true, "größer als Tassen"), [""; 0]);
        assert_eq!(wrong(true, &"x".repeat(256)), [""; 0]);
        let unprinted = "must only contain printable UTF-8 characters; non-printable character found \
                         at index 1";
        for (deprecated, text, complaint) in [
            (false, "x", "can only be set for deprecated versions"),
            (true, "", "must not be an empty string"),
            (true, &"x".repeat(257), "must be <= 256 characters long"),
            (true, "a\nb", unprinted),
            (true, "a\u{2028}b", unprinted),
        ] {
            assert_eq!(wrong(deprecated, text), [complaint]);
        }
        assert_eq!(complaints(&json!({"deprecated": false})), [""; 0]);
    }
}
