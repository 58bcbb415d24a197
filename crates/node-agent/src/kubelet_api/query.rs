//! Query strings.

/// The parameters of a query, decoded, in order.
pub fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    let pairs = query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// The first value of a parameter.
pub fn first_value<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(parameter, _)| parameter == name)
        .map(|(_, value)| value.as_str())
}

/// Whether a parameter is true.
pub fn is_set(parameters: &[(String, String)], name: &str) -> bool {
    matches!(
        first_value(parameters, name),
        Some("true" | "1" | "True" | "TRUE" | "t" | "T")
    )
}

/// Decodes a path, in which a plus sign is not a space.
pub fn decode_path(text: &str) -> Vec<u8> {
    decode_bytes(text, b'+')
}

fn decode(text: &str) -> String {
    String::from_utf8_lossy(&decode_bytes(text, b' ')).into_owned()
}

/// The decoded bytes of a part of a URL; a plus sign becomes `plus`.
fn decode_bytes(text: &str, plus: u8) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = || {
            text.get(index + 1..index + 3)
                .and_then(|h| u8::from_str_radix(h, 16).ok())
        };
        match bytes[index] {
            b'+' => out.push(plus),
            b'%' => match hex() {
                Some(byte) => {
                    out.push(byte);
                    index += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
        index += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_repeated_values_are_retained() {
        // kubectl.md 5.1
        let parameters = parameters(Some(
            "command=sh&command=-c&command=echo%20%22a%2Bb%22+c&tty=true",
        ));
        let command: Vec<&str> = parameters
            .iter()
            .filter(|(n, _)| n == "command")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(command, ["sh", "-c", "echo \"a+b\" c"]);
        assert!(is_set(&parameters, "tty") && !is_set(&parameters, "stdin"));
        assert_eq!(decode("100%"), "100%");
        assert_eq!(decode("%zz"), "%zz");
        assert_eq!(decode_path("a+b%20c%ff"), b"a+b c\xff");
    }
}
