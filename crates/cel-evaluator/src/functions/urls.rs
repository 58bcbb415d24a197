//! Functions of URLs.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use crate::call::Style::{Global, Member};
use crate::call::{FunctionResult, Table, failed, no_overload, nominal, reading};
use crate::meter::Meter;
use crate::url::{Url, check_escapes};
use crate::value::{Key, Map, Value};

pub(super) const TABLE: Table = &[
    ("getEscapedPath", Member, escaped_path, nominal),
    ("getHost", Member, host, nominal),
    ("getHostname", Member, hostname, nominal),
    ("getPort", Member, port, nominal),
    ("getQuery", Member, query, nominal),
    ("getScheme", Member, scheme, nominal),
    ("isURL", Global, is_url, nominal),
    ("url", Global, url, reading),
];

fn url(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => {
            let url = Url::parse(text);
            let url = url.map_err(|why| {
                failed(format!(
                    "URL parse error during conversion from string: {why}"
                ))
            })?;
            Ok(Value::Url(url.into()))
        }
        _ => no_overload(),
    }
}

fn is_url(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    match arguments {
        [Value::String(text)] => Ok(Value::Bool(Url::parse(text).is_ok())),
        _ => no_overload(),
    }
}

fn part(arguments: &[Value], read: fn(&Url) -> &str) -> FunctionResult {
    match arguments {
        [Value::Url(url)] => Ok(Value::text(read(url))),
        _ => no_overload(),
    }
}

fn scheme(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |url| &url.scheme)
}

fn host(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |url| &url.host)
}

fn hostname(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |url| url.split_host().0)
}

fn port(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |url| url.split_host().1)
}

fn escaped_path(arguments: &[Value], _meter: &mut Meter) -> FunctionResult {
    part(arguments, |url| &url.escaped_path)
}

/// The values of each parameter, in their order. A malformed parameter is left out, as in Go.
fn query(arguments: &[Value], meter: &mut Meter) -> FunctionResult {
    let [Value::Url(url)] = arguments else {
        return no_overload();
    };
    meter.work(url.query.len() * 4)?;
    let mut values: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for parameter in url.query.split('&') {
        if parameter.is_empty() || parameter.contains(';') {
            continue;
        }
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if let (Some(key), Some(value)) = (decoded(key), decoded(value)) {
            values.entry(key).or_default().push(Value::text(&value));
        }
    }
    let entries = values.into_iter();
    let entries = entries.map(|(key, values)| (Key::text(&key), Value::list(values)));
    Ok(Value::map(entries.collect::<Map>()))
}

fn decoded(text: &str) -> Option<String> {
    check_escapes(text).ok()?;
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8_lossy();
    Some(decoded.into_owned())
}
