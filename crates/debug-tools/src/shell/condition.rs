//! `test` and `[`.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::fs::Access;

/// Reasons why a condition has no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    #[error("] is missing")]
    MissingBracket,
    #[error("{0:?} is no condition")]
    NoCondition(String),
    #[error("{0:?} is no number")]
    NoNumber(String),
    #[error("there is no condition {0}")]
    UnknownOperator(String),
}

type Result<T> = std::result::Result<T, ConditionError>;

/// Evaluates a condition.
pub fn command(name: &str, arguments: &[String], directory: &Path) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let words = match (name, &words[..]) {
        ("[", [words @ .., "]"]) => words,
        ("[", _) => return Err(ConditionError::MissingBracket),
        (_, words) => words,
    };
    either(words, directory)
}

fn either(words: &[&str], directory: &Path) -> Result<bool> {
    // `-o` within the first three words may be an operand.
    match words.iter().position(|word| *word == "-o") {
        Some(at) if at > 0 && words.len() > 3 => {
            let (left, right) = (&words[..at], &words[at + 1..]);
            Ok(both(left, directory)? | either(right, directory)?)
        }
        _ => both(words, directory),
    }
}

fn both(words: &[&str], directory: &Path) -> Result<bool> {
    match words.iter().position(|word| *word == "-a") {
        Some(at) if at > 0 && words.len() > 3 => {
            let (left, right) = (&words[..at], &words[at + 1..]);
            Ok(single(left, directory)? & both(right, directory)?)
        }
        _ => single(words, directory),
    }
}

fn single(words: &[&str], directory: &Path) -> Result<bool> {
    match words {
        [] => Ok(false),
        [word] => Ok(!word.is_empty()),
        [left, operator, right] if is_comparison(operator) => compare(left, operator, right),
        ["!", rest @ ..] => Ok(!single(rest, directory)?),
        ["(", inside @ .., ")"] => either(inside, directory),
        [operator, operand] => unary(operator, operand, directory),
        _ => Err(ConditionError::NoCondition(words.join(" "))),
    }
}

fn is_comparison(word: &str) -> bool {
    let all = ["=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge"];
    all.contains(&word)
}

fn compare(left: &str, operator: &str, right: &str) -> Result<bool> {
    match operator {
        "=" | "==" => return Ok(left == right),
        "!=" => return Ok(left != right),
        _ => {}
    }
    let number = |text: &str| {
        let parsed = text.trim().parse::<i64>();
        parsed.map_err(|_| ConditionError::NoNumber(text.to_owned()))
    };
    let (left, right) = (number(left)?, number(right)?);
    Ok(match operator {
        "-eq" => left == right,
        "-ne" => left != right,
        "-lt" => left < right,
        "-le" => left <= right,
        "-gt" => left > right,
        _ => left >= right,
    })
}

fn unary(operator: &str, operand: &str, directory: &Path) -> Result<bool> {
    let path = directory.join(operand);
    let is = |check: &dyn Fn(Metadata) -> bool| path.metadata().is_ok_and(check);
    let may = |access| rustix::fs::access(&path, access).is_ok();
    Ok(match operator {
        "-z" => operand.is_empty(),
        "-n" => !operand.is_empty(),
        "-e" => path.exists(),
        "-f" => is(&|facts| facts.is_file()),
        "-d" => is(&|facts| facts.is_dir()),
        "-s" => is(&|facts| facts.len() > 0),
        "-p" => is(&|facts| facts.file_type().is_fifo()),
        "-S" => is(&|facts| facts.file_type().is_socket()),
        "-b" => is(&|facts| facts.file_type().is_block_device()),
        "-c" => is(&|facts| facts.file_type().is_char_device()),
        "-u" => is(&|facts| facts.permissions().mode() & 0o4000 != 0),
        "-L" | "-h" => path.is_symlink(),
        "-r" => may(Access::READ_OK),
        "-w" => may(Access::WRITE_OK),
        "-x" => may(Access::EXEC_OK),
        "-t" => match operand {
            "0" => rustix::termios::isatty(rustix::stdio::stdin()),
            "1" => rustix::termios::isatty(rustix::stdio::stdout()),
            "2" => rustix::termios::isatty(rustix::stdio::stderr()),
            _ => false,
        },
        _ => return Err(ConditionError::UnknownOperator(operator.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_hold_or_not() {
        for (line, expected) in [
            ("a = a", true),
            ("a != a", false),
            ("-n x", true),
            ("-z x", false),
            ("", false),
            ("x", true),
            ("! x", false),
            ("2 -lt 10", true),
            ("-d /", true),
            ("-f /", false),
            ("a = b -o 1 -eq 1", true),
            ("a = a -a 1 -eq 2", false),
            ("( a = a )", true),
            ("-n = -n", true),
        ] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let result = command("test", &words, Path::new("/"));
            assert_eq!(result, Ok(expected), "{line}");
        }
        for line in ["1 -lt x", "-k /", "a b c d"] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(command("test", &words, Path::new("/")).is_err(), "{line}");
        }
    }
}
