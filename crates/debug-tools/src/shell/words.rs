//! Parses words: quotes, variables, command substitutions.

use super::parser::{OPERATORS, ParseError, Parsed, Parser};
use super::syntax::{Computed, DefaultAction, ParameterExpansion, Part, Word};

/// Text whose characters have no special meaning.
pub fn quoted(text: String) -> Part {
    Part::Text {
        text,
        is_quoted: true,
    }
}

/// Whether a variable can have that name.
pub fn is_name(text: &str) -> bool {
    let mut signs = text.chars();
    signs
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && signs.all(|sign| sign.is_ascii_alphanumeric() || sign == '_')
}

/// Appends a character to the last part, if that is text with equal quoting; otherwise adds a part.
fn add(word: &mut Word, sign: char, quoted: bool) {
    if let Some(Part::Text { text, is_quoted }) = word.last_mut()
        && *is_quoted == quoted
    {
        text.push(sign);
        return;
    }
    word.push(Part::Text {
        text: sign.to_string(),
        is_quoted: quoted,
    });
}

impl Parser {
    /// The next word; `None` at an operator or at the end.
    pub(super) fn word(&mut self) -> Parsed<Option<Word>> {
        let start = self.at;
        let word = self
            .word_until(|sign| sign.is_whitespace() || OPERATORS.contains(&sign) || sign == ')')?;
        Ok((self.at > start).then_some(word))
    }

    /// Parses a word up to a character outside of quotes.
    fn word_until(&mut self, is_end: impl Fn(char) -> bool) -> Parsed<Word> {
        let mut word = Word::new();
        while let Some(sign) = self.peek() {
            match sign {
                _ if is_end(sign) => break,
                '\\' => {
                    self.at += 1;
                    match self.peek() {
                        // An interactive user may type the rest in further lines.
                        None => return Err(ParseError::Incomplete),
                        Some('\n') => {}
                        Some(next) => add(&mut word, next, true),
                    }
                    self.at += 1;
                }
                '\'' => {
                    self.at += 1;
                    let rest = self.text.iter().skip(self.at);
                    let text: String = rest.take_while(|sign| **sign != '\'').collect();
                    self.at += text.chars().count();
                    if !self.accept("'") {
                        return Err(ParseError::Incomplete);
                    }
                    word.push(quoted(text));
                }
                '"' => {
                    self.at += 1;
                    let text = self.deeper(|parser| parser.quoted_text(Some('"')))?;
                    if text.is_empty() {
                        // Empty quotes are an empty word.
                        word.push(quoted(String::new()));
                    }
                    word.extend(text);
                }
                '~' if word.is_empty() && self.is_home() => {
                    self.at += 1;
                    word.push(Part::Computed {
                        value: Computed::Home,
                        is_quoted: true,
                    });
                }
                '$' | '`' => self.computed(&mut word, false)?,
                _ => {
                    add(&mut word, sign, false);
                    self.at += 1;
                }
            }
        }
        Ok(word)
    }

    fn is_home(&self) -> bool {
        let next = self.text.get(self.at + 1);
        next.is_none_or(|sign| sign.is_whitespace() || OPERATORS.contains(sign) || *sign == '/')
    }

    /// Text in which only `$`, `` ` `` and `\` are special, up to and including `end`.
    pub(super) fn quoted_text(&mut self, end: Option<char>) -> Parsed<Word> {
        let mut word = Word::new();
        loop {
            match (self.peek(), end) {
                (None, None) => return Ok(word),
                (None, Some(_)) => return Err(ParseError::Incomplete),
                (Some(sign), Some(end)) if sign == end => {
                    self.at += 1;
                    return Ok(word);
                }
                (Some('\\'), _) => {
                    let next = self.text.get(self.at + 1).copied();
                    match next {
                        Some('\n') => {}
                        Some(next) if "$`\\".contains(next) || Some(next) == end => {
                            add(&mut word, next, true);
                        }
                        Some(next) => {
                            add(&mut word, '\\', true);
                            add(&mut word, next, true);
                        }
                        None => add(&mut word, '\\', true),
                    }
                    self.at += 1 + usize::from(next.is_some());
                }
                (Some('$' | '`'), _) => self.computed(&mut word, true)?,
                (Some(sign), _) => {
                    add(&mut word, sign, true);
                    self.at += 1;
                }
            }
        }
    }

    /// Parses an expansion, which starts with `$` or `` ` ``.
    fn computed(&mut self, word: &mut Word, is_quoted: bool) -> Parsed<()> {
        let value = if self.accept("`") {
            Some(Computed::Output(self.backquoted()?))
        } else {
            self.at += 1;
            self.deeper(|parser| parser.after_dollar())?
        };
        match value {
            Some(value) => word.push(Part::Computed { value, is_quoted }),
            None => add(word, '$', is_quoted),
        }
        Ok(())
    }

    fn backquoted(&mut self) -> Parsed<super::syntax::Script> {
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(ParseError::Incomplete),
                Some('`') => {
                    self.at += 1;
                    return self.inner(text);
                }
                Some('\\') => {
                    let next = self.text.get(self.at + 1).copied();
                    if !next.is_some_and(|next| "$`\\".contains(next)) {
                        text.push('\\');
                    }
                    text.extend(next);
                    self.at += 2;
                }
                Some(sign) => {
                    text.push(sign);
                    self.at += 1;
                }
            }
        }
    }

    fn after_dollar(&mut self) -> Parsed<Option<Computed>> {
        if self.starts_with("((") {
            let before = self.at;
            self.at += 2;
            if let Some(expression) = self.arithmetic()? {
                return Ok(Some(Computed::Arithmetic(expression)));
            }
            // The parentheses are a subshell in a command substitution.
            self.at = before;
        }
        if self.accept("(") {
            let script = self.script(&[])?;
            return match self.accept(")") {
                true => Ok(Some(Computed::Output(script))),
                false => Err(ParseError::Incomplete),
            };
        }
        if self.accept("{") {
            return self.braced().map(Some);
        }
        let change = ParameterExpansion::None;
        match self.peek() {
            Some(sign) if sign.is_ascii_alphabetic() || sign == '_' => {
                let name = self.variable_name();
                Ok(Some(Computed::Variable { name, change }))
            }
            Some(sign) if sign.is_ascii_digit() || "?#@*$!-".contains(sign) => {
                self.at += 1;
                let name = sign.to_string();
                Ok(Some(Computed::Variable { name, change }))
            }
            _ => Ok(None),
        }
    }

    fn variable_name(&mut self) -> String {
        let rest = self.text.iter().skip(self.at);
        let name: String = rest
            .take_while(|sign| sign.is_ascii_alphanumeric() || **sign == '_')
            .collect();
        self.at += name.len();
        name
    }

    /// An expression up to `))`; `None` if the parentheses belong to a subshell.
    fn arithmetic(&mut self) -> Parsed<Option<Word>> {
        let mut word = Word::new();
        let mut open = 0_u32;
        loop {
            match self.peek() {
                None => return Err(ParseError::Incomplete),
                Some(')') if open == 0 => {
                    return Ok(self.accept("))").then_some(word));
                }
                Some('$' | '`') => {
                    self.computed(&mut word, true)?;
                    continue;
                }
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some(_) => {}
            }
            if let Some(sign) = self.peek().filter(|sign| *sign != '"') {
                add(&mut word, sign, true);
            }
            self.at += 1;
        }
    }

    /// Parses an expansion after `${`.
    fn braced(&mut self) -> Parsed<Computed> {
        let wrong = || ParseError::Wrong("there is no such ${…}".to_owned());
        let next_is_end = self.text.get(self.at + 1) == Some(&'}');
        if !next_is_end && self.accept("#") {
            let name = self.braced_name()?;
            return match self.accept("}") {
                true => Ok(Computed::Variable {
                    name,
                    change: ParameterExpansion::Length,
                }),
                false => Err(wrong()),
            };
        }
        let name = self.braced_name()?;
        if self.peek().is_none() {
            return Err(ParseError::Incomplete);
        }
        if self.accept("}") {
            let change = ParameterExpansion::None;
            return Ok(Computed::Variable { name, change });
        }
        let also_empty = self.accept(":");
        let sign = self.peek().ok_or(ParseError::Incomplete)?;
        self.at += 1;
        let action = match sign {
            '-' => Some(DefaultAction::Use),
            '=' => Some(DefaultAction::Assign),
            '+' => Some(DefaultAction::UseInstead),
            '?' => Some(DefaultAction::Fail),
            _ => None,
        };
        let change = match (action, sign) {
            (Some(action), _) => ParameterExpansion::Default {
                action,
                also_empty,
                word: self.word_until(|sign| sign == '}')?,
            },
            (None, '#' | '%') if !also_empty => {
                let longest = self.accept(&sign.to_string());
                ParameterExpansion::Cut {
                    at_end: sign == '%',
                    longest,
                    pattern: self.word_until(|sign| sign == '}')?,
                }
            }
            _ => return Err(wrong()),
        };
        match self.accept("}") {
            true => Ok(Computed::Variable { name, change }),
            false => Err(ParseError::Incomplete),
        }
    }

    fn braced_name(&mut self) -> Parsed<String> {
        let name = self.variable_name();
        if !name.is_empty() {
            return Ok(name);
        }
        let sign = self.peek().ok_or(ParseError::Incomplete)?;
        self.at += 1;
        Ok(sign.to_string())
    }
}
