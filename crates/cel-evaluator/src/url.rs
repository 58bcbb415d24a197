//! URLs, with the rules of Go's `net/url`.

use std::net::Ipv6Addr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Characters that are escaped in a path without a valid encoding.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// ASCII characters that a host cannot have.
const FORBIDDEN_IN_HOST: &str = " #/?@\\^`{|}";

/// The parts of an absolute URL or of an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub(crate) scheme: String,
    /// The part after the scheme that is no path: `mailto:a@b`.
    opaque: String,
    user: Option<String>,
    pub(crate) host: String,
    pub(crate) escaped_path: String,
    pub(crate) query: String,
    fragment: String,
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// The reason, as Go states it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parsed(text).map_err(|why| format!("parse {text:?}: {why}"))
    }

    fn parsed(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = scheme_of(text)?;
        if !rest.starts_with('/') && scheme.is_empty() {
            return Err("invalid URI for request".to_owned());
        }
        let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            opaque: String::new(),
            user: None,
            host: String::new(),
            escaped_path: String::new(),
            query: query.to_owned(),
            fragment: fragment.to_owned(),
        };
        if !rest.starts_with('/') {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        let path = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            None => rest,
            Some(after) => {
                let end = after.find('/').unwrap_or(after.len());
                let (authority, path) = after.split_at(end);
                url.set_authority(authority)?;
                path
            }
        };
        check_escapes(path)?;
        url.escaped_path = match is_valid_path(path) {
            true => path.to_owned(),
            false => {
                let bytes: Vec<u8> = percent_decode_str(path).collect();
                percent_encode(&bytes, PATH).to_string()
            }
        };
        Ok(url)
    }

    fn set_authority(&mut self, authority: &str) -> Result<(), String> {
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        if let Some(user) = user {
            let is_valid =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
            if !user.bytes().all(is_valid) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            check_escapes(user)?;
            self.user = Some(user.to_owned());
        }
        let after_host = match host.strip_prefix('[') {
            Some(_) => {
                let end = host
                    .rfind(']')
                    .ok_or_else(|| "missing ']' in host".to_owned())?;
                let address = &host[1..end];
                let address = address.split("%25").next().unwrap_or_default();
                if address.parse::<Ipv6Addr>().is_err() {
                    return Err("invalid host: the brackets contain no IPv6 address".to_owned());
                }
                &host[end + 1..]
            }
            None => host.rfind(':').map_or("", |colon| &host[colon..]),
        };
        if !is_optional_port(after_host) {
            return Err(format!("invalid port {after_host:?} after host"));
        }
        check_escapes(host)?;
        let wrong = host
            .chars()
            .find(|letter| FORBIDDEN_IN_HOST.contains(*letter));
        if let Some(letter) = wrong {
            return Err(format!(
                "invalid character {:?} in host name",
                letter.to_string()
            ));
        }
        self.host = percent_decode_str(host).decode_utf8_lossy().into_owned();
        Ok(())
    }

    /// The host without brackets, and the port.
    pub(crate) fn split_host(&self) -> (&str, &str) {
        let (host, port) = match self.host.rfind(':') {
            Some(colon) if is_optional_port(&self.host[colon..]) => {
                (&self.host[..colon], &self.host[colon + 1..])
            }
            _ => (self.host.as_str(), ""),
        };
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        (inner.unwrap_or(host), port)
    }
}

/// The scheme and the text after it; an empty scheme if there is none.
fn scheme_of(text: &str) -> Result<(&str, &str), String> {
    for (at, letter) in text.char_indices() {
        match letter {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn is_optional_port(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    }
}

/// Checks that each `%` is followed by two hexadecimal digits.
pub(crate) fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let digits = bytes.get(at + 1..at + 3);
        let is_escape = digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if *byte == b'%' && !is_escape {
            let end = (at + 3).min(text.len());
            let wrong = text.get(at..end).unwrap_or("%");
            return Err(format!("invalid URL escape {wrong:?}"));
        }
    }
    Ok(())
}

/// Whether a path needs no further escapes.
fn is_valid_path(path: &str) -> bool {
    let is_valid =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]%/".contains(&byte);
    path.bytes().all(is_valid)
}
