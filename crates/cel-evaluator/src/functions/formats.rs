//! Named formats of texts.

use object_model::names::{dns_1035_label, dns_label, dns_subdomain, label_value, qualified_name};

use crate::call::Style::{Global, Member};
use crate::call::{FunctionResult, Table, no_overload, nominal, scaled, size};
use crate::meter::Meter;
use crate::url::Url;
use crate::value::{Format, Time, Value};

/// The errors of a text; empty for a text of the format.
type Validator = fn(&str) -> Vec<String>;

/// The name, the validation, and the size of the pattern by which the cost is computed.
const FORMATS: [(&str, Validator, u64); 13] = [
    ("dns1123Label", dns_label, 30),
    ("dns1123Subdomain", dns_subdomain, 60),
    ("dns1035Label", dns_1035_label, 30),
    ("qualifiedName", qualified_name, 60),
    ("dns1123LabelPrefix", |text| dns_label(&masked(text)), 30),
    (
        "dns1123SubdomainPrefix",
        |text| dns_subdomain(&masked(text)),
        60,
    ),
    (
        "dns1035LabelPrefix",
        |text| dns_1035_label(&masked(text)),
        30,
    ),
    ("labelValue", label_value, 40),
    ("uri", uri, 1_500),
    ("uuid", uuid, 110),
    ("byte", byte, 90),
    ("date", date, 90),
    ("datetime", date_time, 90),
];

pub(super) const TABLE: Table = &[
    ("format.byte", Global, |_, _| constant("byte"), nominal),
    ("format.date", Global, |_, _| constant("date"), nominal),
    (
        "format.datetime",
        Global,
        |_, _| constant("datetime"),
        nominal,
    ),
    (
        "format.dns1035Label",
        Global,
        |_, _| constant("dns1035Label"),
        nominal,
    ),
    (
        "format.dns1035LabelPrefix",
        Global,
        |_, _| constant("dns1035LabelPrefix"),
        nominal,
    ),
    (
        "format.dns1123Label",
        Global,
        |_, _| constant("dns1123Label"),
        nominal,
    ),
    (
        "format.dns1123LabelPrefix",
        Global,
        |_, _| constant("dns1123LabelPrefix"),
        nominal,
    ),
    (
        "format.dns1123Subdomain",
        Global,
        |_, _| constant("dns1123Subdomain"),
        nominal,
    ),
    (
        "format.dns1123SubdomainPrefix",
        Global,
        |_, _| constant("dns1123SubdomainPrefix"),
        nominal,
    ),
    (
        "format.labelValue",
        Global,
        |_, _| constant("labelValue"),
        nominal,
    ),
    ("format.named", Global, named, nominal),
    (
        "format.qualifiedName",
        Global,
        |_, _| constant("qualifiedName"),
        nominal,
    ),
    ("format.uri", Global, |_, _| constant("uri"), nominal),
    ("format.uuid", Global, |_, _| constant("uuid"), nominal),
    ("validate", Member, validate, validated),
];

fn format(name: &str) -> Option<Format> {
    FORMATS
        .iter()
        .position(|(known, ..)| *known == name)
        .map(Format)
}

fn constant(name: &str) -> FunctionResult {
    match format(name) {
        Some(format) => Ok(Value::Format(format)),
        None => no_overload(),
    }
}

fn named(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(name)] => Ok(match format(name) {
            Some(format) => Value::some(Value::Format(format)),
            None => Value::Optional(None),
        }),
        _ => no_overload(),
    }
}

/// The errors of a text; none if it has the format.
fn validate(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::Format(Format(index)), Value::String(text)] = arguments else {
        return no_overload();
    };
    meter.work(text.len())?;
    let errors = FORMATS
        .get(*index)
        .map(|(_, validator, _)| validator(text))
        .unwrap_or_default();
    if errors.is_empty() {
        return Ok(Value::Optional(None));
    }
    let errors = errors.iter().map(|error| Value::text(error));
    Ok(Value::some(Value::list(errors.collect())))
}

fn validated(arguments: &[Value], _result: Option<&Value>) -> u64 {
    let pattern = match arguments.first() {
        Some(Value::Format(Format(index))) => FORMATS.get(*index).map_or(1, |(.., size)| *size),
        _ => 1,
    };
    let text = scaled(size(arguments, 1) + 1, 0.1);
    text.saturating_mul(scaled(pattern, 0.25))
}

/// The prefix of a generated name, which may end with `-`.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut rest = rest.to_owned();
            rest.pop();
            rest.push('a');
            rest
        }
        _ => text.to_owned(),
    }
}

/// No error for a text that is valid.
fn checked(is_valid: bool, error: &str) -> Vec<String> {
    match is_valid {
        true => Vec::new(),
        false => vec![error.to_owned()],
    }
}

fn uri(text: &str) -> Vec<String> {
    match Url::parse(text) {
        Ok(_) => Vec::new(),
        Err(error) => vec![error],
    }
}

fn uuid(text: &str) -> Vec<String> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split('-').collect();
    let is_valid = match parts.as_slice() {
        [whole] => whole.len() == 32 && is_hex(whole),
        parts => {
            parts.iter().all(|part| is_hex(part)) && parts.iter().map(|part| part.len()).eq(GROUPS)
        }
    };
    checked(is_valid, "does not match the UUID format")
}

fn byte(text: &str) -> Vec<String> {
    let body = text.trim_end_matches('=');
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let is_valid = !text.is_empty()
        && text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body.bytes().all(is_digit);
    checked(is_valid, "invalid base64")
}

fn date(text: &str) -> Vec<String> {
    let is_valid = Time::parse(&format!("{text}T00:00:00Z")).is_some();
    checked(is_valid, "invalid date")
}

/// A moment whose letters may be lower case, and whose second is at most 59.
fn date_time(text: &str) -> Vec<String> {
    let is_valid = Time::parse(&text.to_ascii_uppercase()).is_some();
    checked(is_valid, "invalid datetime")
}
