//! `$((…))`: whole numbers.

/// Maximum nesting of parentheses.
const DEPTH_MAX: u32 = 64;

/// The binary operators by their precedence. A longer operator comes before its prefix.
const LEVELS: [&[&str]; 8] = [
    &["||"],
    &["&&"],
    &["|", "^"],
    &["&"],
    &["==", "!="],
    &["<=", ">=", "<", ">"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// Reasons why an expression has no value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArithmeticError {
    #[error("{0:?} is no expression")]
    NoExpression(String),
    #[error("division by zero, or too large a number")]
    Undefined,
    #[error("an expression is nested too deep")]
    TooDeep,
    #[error("a parenthesis is not closed")]
    OpenParenthesis,
    #[error("a number is missing")]
    MissingNumber,
    #[error("{0:?} is no number")]
    NoNumber(String),
}

type Result<T> = std::result::Result<T, ArithmeticError>;

/// The value of an expression, with the values of variables from `value`.
pub fn evaluate(text: &str, value: &dyn Fn(&str) -> String) -> Result<i64> {
    let mut reader = Reader {
        rest: text.trim_start(),
        value,
        depth: 0,
    };
    if reader.rest.is_empty() {
        return Ok(0);
    }
    let number = reader.level(0)?;
    match reader.rest.is_empty() {
        true => Ok(number),
        false => Err(ArithmeticError::NoExpression(text.to_owned())),
    }
}

struct Reader<'a> {
    rest: &'a str,
    value: &'a dyn Fn(&str) -> String,
    depth: u32,
}

impl Reader<'_> {
    fn skip(&mut self, sign: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(sign) else {
            return false;
        };
        // "&" is not the start of "&&".
        if sign.len() == 1 && "&|".contains(sign) && rest.starts_with(sign) {
            return false;
        }
        self.rest = rest.trim_start();
        true
    }

    fn level(&mut self, level: usize) -> Result<i64> {
        let Some(signs) = LEVELS.get(level) else {
            return self.single();
        };
        let mut left = self.level(level + 1)?;
        while let Some(sign) = signs.iter().find(|sign| self.skip(sign)) {
            let right = self.level(level + 1)?;
            left = apply(sign, left, right).ok_or(ArithmeticError::Undefined)?;
        }
        Ok(left)
    }

    fn single(&mut self) -> Result<i64> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ArithmeticError::TooDeep);
        }
        let number = self.operand()?;
        self.depth -= 1;
        Ok(number)
    }

    fn operand(&mut self) -> Result<i64> {
        if self.skip("(") {
            let number = self.level(0)?;
            return match self.skip(")") {
                true => Ok(number),
                false => Err(ArithmeticError::OpenParenthesis),
            };
        }
        if self.skip("-") {
            return Ok(self.single()?.wrapping_neg());
        }
        if self.skip("+") {
            return self.single();
        }
        if self.skip("!") {
            return Ok(i64::from(self.single()? == 0));
        }
        let length = self
            .rest
            .find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest.trim_start();
        if word.is_empty() {
            return Err(ArithmeticError::MissingNumber);
        }
        let text = match word.starts_with(|sign: char| sign.is_ascii_digit()) {
            true => word.to_owned(),
            false => (self.value)(word),
        };
        let text = text.trim();
        if text.is_empty() {
            return Ok(0);
        }
        let number = match text.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| ArithmeticError::NoNumber(text.to_owned()))
    }
}

fn apply(sign: &str, left: i64, right: i64) -> Option<i64> {
    let truth = |holds: bool| Some(i64::from(holds));
    match sign {
        "||" => truth(left != 0 || right != 0),
        "&&" => truth(left != 0 && right != 0),
        "|" => Some(left | right),
        "^" => Some(left ^ right),
        "&" => Some(left & right),
        "==" => truth(left == right),
        "!=" => truth(left != right),
        "<=" => truth(left <= right),
        ">=" => truth(left >= right),
        "<" => truth(left < right),
        ">" => truth(left > right),
        "+" => left.checked_add(right),
        "-" => left.checked_sub(right),
        "*" => left.checked_mul(right),
        "/" => left.checked_div(right),
        "%" => left.checked_rem(right),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Result;

    fn evaluate(text: &str) -> Result<i64> {
        super::evaluate(text, &|name| match name {
            "two" => "2".to_owned(),
            "word" => "abc".to_owned(),
            _ => String::new(),
        })
    }

    #[test]
    fn expressions_have_values() {
        for (text, expected) in [
            ("1+2*3", 7),
            (" ( 1 + 2 ) * 3 ", 9),
            ("7 % 4 - -two", 5),
            ("1 < two && two <= 2 || 0", 1),
            ("!0 == 1", 1),
            ("6 & 3", 2),
            ("unknown", 0),
            ("", 0),
            ("0x10", 16),
        ] {
            assert_eq!(evaluate(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_has_no_value_is_told() {
        let deep = "(".repeat(100_000);
        for text in [
            "1/0",
            "1 +",
            "(1",
            "1 2",
            "word",
            "9223372036854775807+1",
            &deep,
        ] {
            assert!(evaluate(text).is_err(), "{text}");
        }
    }
}
