//! Options of tools: `-la`, `-n 5`, `-n5`, `--number=5`, mixed with operands, until `--`.

use std::fmt;

/// A mistake in the arguments; the usage is printed after it.
#[derive(Debug)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

pub fn misuse(text: impl Into<String>) -> anyhow::Error {
    UsageError(text.into()).into()
}

/// The options of a tool.
#[derive(Clone, Copy, Debug, Default)]
pub struct ToolOptions<'a> {
    /// Letters of options without a value.
    pub flags: &'a str,
    /// Letters of options with a value.
    pub valued: &'a str,
    /// Long names of options, and their letters.
    pub long: &'a [(&'a str, char)],
    /// Whether the first operand ends the options.
    pub ends_at_operand: bool,
}

/// Options of letters alone.
pub const fn flags(flags: &'static str) -> ToolOptions<'static> {
    with_values(flags, "")
}

/// Options of letters, some with values.
pub const fn with_values(flags: &'static str, valued: &'static str) -> ToolOptions<'static> {
    ToolOptions {
        flags,
        valued,
        long: &[],
        ends_at_operand: false,
    }
}

/// The parsed arguments of a tool.
#[derive(Debug, Default)]
pub struct Options {
    parsed: Vec<(char, String)>,
    pub operands: Vec<String>,
}

impl Options {
    /// Parses the arguments.
    pub fn read(arguments: &[String], supported: ToolOptions<'_>) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                break;
            }
            if let Some(name) = argument.strip_prefix("--") {
                let (name, value) = match name.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (name, None),
                };
                let unknown = || misuse(format!("there is no option --{name}"));
                let long = supported.long.iter().find(|(long, _)| *long == name);
                let letter = long.ok_or_else(unknown)?.1;
                let value = match (supported.valued.contains(letter), value) {
                    (true, None) => rest.next().cloned(),
                    (_, value) => Some(value.unwrap_or_default()),
                };
                let value = value.ok_or_else(|| misuse(format!("--{name} needs a value")))?;
                options.parsed.push((letter, value));
                continue;
            }
            let Some(letters) = argument.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                options.operands.push(argument.clone());
                if supported.ends_at_operand {
                    break;
                }
                continue;
            };
            let mut letters = letters.chars();
            while let Some(letter) = letters.next() {
                if supported.flags.contains(letter) {
                    options.parsed.push((letter, String::new()));
                    continue;
                }
                if !supported.valued.contains(letter) {
                    return Err(misuse(format!("there is no option -{letter}")));
                }
                let attached = letters.as_str();
                let value = match attached.is_empty() {
                    true => rest.next().cloned(),
                    false => Some(attached.to_owned()),
                };
                let value = value.ok_or_else(|| misuse(format!("-{letter} needs a value")))?;
                options.parsed.push((letter, value));
                break;
            }
        }
        options.operands.extend(rest.cloned());
        Ok(options)
    }

    pub fn has(&self, letter: char) -> bool {
        self.parsed.iter().any(|(name, _)| *name == letter)
    }

    /// The last value of the option.
    pub fn value(&self, letter: char) -> Option<&str> {
        self.values(letter).last()
    }

    /// All values of the option.
    pub fn values(&self, letter: char) -> impl Iterator<Item = &str> {
        let parsed = self.parsed.iter();
        parsed
            .filter(move |(name, _)| *name == letter)
            .map(|(_, value)| value.as_str())
    }

    /// The value of the option as a number.
    pub fn number<N: std::str::FromStr>(&self, letter: char) -> anyhow::Result<Option<N>> {
        let Some(value) = self.value(letter) else {
            return Ok(None);
        };
        let wrong = |_| misuse(format!("-{letter}: {value:?} is no such number"));
        value.parse().map(Some).map_err(wrong)
    }

    /// The operands; an error if there are none.
    pub fn some_operands(&self) -> anyhow::Result<&[String]> {
        match self.operands.is_empty() {
            true => Err(misuse("an operand is missing")),
            false => Ok(&self.operands),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUPPORTED: ToolOptions<'_> = ToolOptions {
        flags: "la",
        valued: "n",
        long: &[("all", 'a'), ("number", 'n')],
        ends_at_operand: false,
    };

    fn read(line: &str) -> anyhow::Result<Options> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::read(&words, SUPPORTED)
    }

    #[test]
    fn options_have_many_forms() {
        let options = read("-la x -n5 --number=6 --number 7 - -- -l").unwrap();
        assert!(options.has('l') && options.has('a'));
        assert_eq!(options.values('n').collect::<Vec<_>>(), ["5", "6", "7"]);
        assert_eq!(options.number('n').unwrap(), Some(7));
        assert_eq!(options.operands, ["x", "-", "-l"]);
    }

    #[test]
    fn mistakes_are_told() {
        for (line, message) in [
            ("-x", "-x"),
            ("--other", "--other"),
            ("-n", "needs a value"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.is::<UsageError>());
            assert!(error.to_string().contains(message), "{error}");
        }
        assert!(read("-n five").unwrap().number::<u32>('n').is_err());
    }
}
