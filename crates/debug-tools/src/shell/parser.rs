//! Parses scripts.

use std::sync::Arc;

use super::syntax::{
    Chain, Command, Compound, Join, ListItem, Pipeline, Redirect, RedirectKind, Script, Word,
};
use super::words::is_name;

/// The error of parsing a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// The text ends within a command: further lines may complete it.
    Incomplete,
    /// The text is invalid, whatever follows.
    Wrong(String),
}

/// Maximum nesting of commands: parsing and running them uses stack.
const DEPTH_MAX: u32 = 64;

/// Words that start or end a compound command.
const RESERVED: [&str; 15] = [
    "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "for", "case", "esac", "{",
    "}", "!",
];

/// Signs that end a word.
pub const OPERATORS: [char; 7] = ['\n', ';', '&', '|', '<', '>', '('];

/// A text in the process of being parsed.
#[derive(Debug)]
pub struct Parser {
    pub(super) text: Vec<char>,
    pub(super) at: usize,
    depth: u32,
}

/// The result of parsing a part.
pub type Parsed<T> = Result<T, ParseError>;

/// Parses a whole text.
pub fn parse(text: &str) -> Parsed<Script> {
    let mut parser = Parser::new(text.chars().collect(), 0);
    let script = parser.script(&[])?;
    if parser.peek().is_some() {
        return Err(parser.unexpected());
    }
    Ok(script)
}

impl Parser {
    fn new(text: Vec<char>, depth: u32) -> Self {
        Self { text, at: 0, depth }
    }

    /// Parses the script of a command substitution in backquotes.
    pub(super) fn inner(&self, text: String) -> Parsed<Script> {
        let mut parser = Self::new(text.chars().collect(), self.depth + 1);
        parser.check_depth()?;
        let script = parser.script(&[])?;
        if parser.peek().is_some() {
            return Err(parser.unexpected());
        }
        Ok(script)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    pub(super) fn starts_with(&self, sign: &str) -> bool {
        let mut rest = self.text.iter().skip(self.at);
        sign.chars().all(|expected| rest.next() == Some(&expected))
    }

    pub(super) fn accept(&mut self, sign: &str) -> bool {
        let matches_next = self.starts_with(sign);
        if matches_next {
            self.at += sign.chars().count();
        }
        matches_next
    }

    fn check_depth(&self) -> Parsed<()> {
        match self.depth > DEPTH_MAX {
            true => Err(ParseError::Wrong("commands are nested too deep".to_owned())),
            false => Ok(()),
        }
    }

    /// Parses a construct that may be nested in itself; limits the depth.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.depth += 1;
        self.check_depth()?;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn unexpected(&self) -> ParseError {
        let rest: String = self.text.iter().skip(self.at).take(20).collect();
        let line = rest.lines().next().unwrap_or_default();
        match self.peek() {
            None => ParseError::Incomplete,
            Some('\n') => ParseError::Wrong("syntax error at the end of a line".to_owned()),
            Some(_) => ParseError::Wrong(format!("syntax error at {line:?}")),
        }
    }

    /// Skips blanks, continued lines and a comment.
    fn blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\r') => self.at += 1,
                Some('\\') if self.starts_with("\\\n") => self.at += 2,
                Some('#') => {
                    while self.peek().is_some_and(|sign| sign != '\n') {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    /// Skips blanks, comments and empty lines.
    fn lines(&mut self) {
        self.blanks();
        while self.peek() == Some('\n') {
            self.at += 1;
            self.blanks();
        }
    }

    /// Removes the here-document up to a line `end` from the input, and returns it.
    fn text_after_line(&mut self, end: &str, without_tabs: bool) -> Parsed<String> {
        let is_end = |sign: &char| *sign == '\n';
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(is_end).ok_or(ParseError::Incomplete)?;
        let start = self.at + length + 1;
        let mut after = start;
        let mut text = String::new();
        loop {
            let rest = self.text.get(after..).unwrap_or_default();
            let length = rest.iter().position(is_end);
            let line: String = rest.iter().take(length.unwrap_or(rest.len())).collect();
            after += line.chars().count() + usize::from(length.is_some());
            let line = match without_tabs {
                true => line.trim_start_matches('\t'),
                false => &line,
            };
            if line == end {
                break;
            }
            if length.is_none() {
                return Err(ParseError::Incomplete);
            }
            text.push_str(line);
            text.push('\n');
        }
        self.text.drain(start..after);
        Ok(text)
    }

    /// Parses commands up to one of the words, which is not consumed.
    pub(super) fn script(&mut self, ends: &[&str]) -> Parsed<Script> {
        let mut items = Vec::new();
        loop {
            self.lines();
            let is_end = match self.peek() {
                None | Some(')') => true,
                Some(';') => self.starts_with(";;"),
                _ => self.reserved().is_some_and(|word| ends.contains(&word)),
            };
            if is_end {
                return Ok(Script(items));
            }
            let chain = self.chain()?;
            self.blanks();
            let in_background = self.peek() == Some('&');
            items.push(ListItem {
                chain,
                in_background,
            });
            let is_separated = match self.peek() {
                Some('&') => true,
                Some(';') => !self.starts_with(";;"),
                _ => false,
            };
            if is_separated {
                self.at += 1;
            } else if !matches!(self.peek(), None | Some('\n' | ')' | ';')) {
                return Err(self.unexpected());
            }
        }
    }

    fn chain(&mut self) -> Parsed<Chain> {
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            self.blanks();
            let join = match () {
                () if self.accept("&&") => Join::AfterSuccess,
                () if self.accept("||") => Join::AfterFailure,
                () => return Ok(Chain { first, rest }),
            };
            self.lines();
            rest.push((join, self.pipeline()?));
        }
    }

    fn pipeline(&mut self) -> Parsed<Pipeline> {
        self.blanks();
        let is_negated = self.accept_reserved("!");
        let mut commands = vec![self.deeper(Self::command)?];
        loop {
            self.blanks();
            if self.peek() != Some('|') || self.starts_with("||") {
                return Ok(Pipeline {
                    is_negated,
                    commands,
                });
            }
            self.at += 1;
            self.lines();
            commands.push(self.deeper(Self::command)?);
        }
    }

    /// The reserved word at the position, if there is one.
    fn reserved(&self) -> Option<&'static str> {
        RESERVED.into_iter().find(|word| {
            self.starts_with(word) && {
                let next = self.text.get(self.at + word.chars().count());
                next.is_none_or(|sign| {
                    sign.is_whitespace() || OPERATORS.contains(sign) || *sign == ')'
                })
            }
        })
    }

    fn accept_reserved(&mut self, word: &str) -> bool {
        self.blanks();
        self.reserved() == Some(word) && self.accept(word)
    }

    fn expect_reserved(&mut self, word: &str) -> Parsed<()> {
        match self.accept_reserved(word) {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    fn command(&mut self) -> Parsed<Command> {
        self.blanks();
        if self.accept("(") {
            let body = Compound::Subshell(self.script(&[])?);
            if !self.accept(")") {
                return Err(self.unexpected());
            }
            return self.redirected(body);
        }
        let body = match self.reserved() {
            Some("{") => {
                self.at += 1;
                let script = self.script(&["}"])?;
                self.expect_reserved("}")?;
                Compound::Group(script)
            }
            Some("if") => self.conditional()?,
            Some(word @ ("while" | "until")) => {
                self.at += word.len();
                let condition = self.script(&["do"])?;
                Compound::Loop {
                    until: word == "until",
                    condition,
                    body: self.loop_body()?,
                }
            }
            Some("for") => self.for_loop()?,
            Some("case") => self.case()?,
            Some(_) => return Err(self.unexpected()),
            None => return self.simple(),
        };
        self.redirected(body)
    }

    fn redirected(&mut self, body: Compound) -> Parsed<Command> {
        let mut redirects = Vec::new();
        self.blanks();
        while let Some(redirect) = self.redirect()? {
            redirects.push(redirect);
            self.blanks();
        }
        Ok(Command::Compound { body, redirects })
    }

    fn conditional(&mut self) -> Parsed<Compound> {
        let mut branches = Vec::new();
        let mut next = "if";
        while self.accept_reserved(next) {
            let condition = self.script(&["then"])?;
            self.expect_reserved("then")?;
            branches.push((condition, self.script(&["elif", "else", "fi"])?));
            next = "elif";
        }
        let otherwise = match self.accept_reserved("else") {
            true => self.script(&["fi"])?,
            false => Script::default(),
        };
        self.expect_reserved("fi")?;
        Ok(Compound::If {
            branches,
            otherwise,
        })
    }

    fn loop_body(&mut self) -> Parsed<Script> {
        self.expect_reserved("do")?;
        let body = self.script(&["done"])?;
        self.expect_reserved("done")?;
        Ok(body)
    }

    fn bare_word(&mut self) -> String {
        self.blanks();
        let start = self.at;
        while self
            .peek()
            .is_some_and(|sign| sign.is_alphanumeric() || sign == '_')
        {
            self.at += 1;
        }
        self.text[start..self.at].iter().collect()
    }

    fn for_loop(&mut self) -> Parsed<Compound> {
        self.at += "for".len();
        let name = self.bare_word();
        if !is_name(&name) {
            return Err(self.unexpected());
        }
        self.lines();
        let before = self.at;
        let values = if self.bare_word() == "in" {
            let mut values = Vec::new();
            loop {
                self.blanks();
                match self.word()? {
                    Some(word) => values.push(word),
                    None => break Some(values),
                }
            }
        } else {
            self.at = before;
            None
        };
        self.blanks();
        self.accept(";");
        self.lines();
        let body = self.loop_body()?;
        Ok(Compound::For { name, values, body })
    }

    fn case(&mut self) -> Parsed<Compound> {
        self.at += "case".len();
        self.blanks();
        let word = self.word()?.ok_or_else(|| self.unexpected())?;
        self.lines();
        if self.bare_word() != "in" {
            return Err(self.unexpected());
        }
        let mut branches = Vec::new();
        loop {
            self.lines();
            if self.accept_reserved("esac") {
                return Ok(Compound::Case { word, branches });
            }
            self.accept("(");
            let mut patterns = Vec::new();
            loop {
                self.blanks();
                patterns.push(self.word()?.ok_or_else(|| self.unexpected())?);
                self.blanks();
                if !self.accept("|") {
                    break;
                }
            }
            if !self.accept(")") {
                return Err(self.unexpected());
            }
            branches.push((patterns, self.script(&["esac"])?));
            self.accept(";;");
        }
    }

    fn simple(&mut self) -> Parsed<Command> {
        let mut assignments = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        let mut redirects = Vec::new();
        loop {
            self.blanks();
            if let Some(redirect) = self.redirect()? {
                redirects.push(redirect);
                continue;
            }
            if words.is_empty()
                && let Some(name) = self.assigned_name()
            {
                let value = self.word()?.unwrap_or_default();
                assignments.push((name, value));
                continue;
            }
            let start = self.at;
            let Some(word) = self.word()? else { break };
            words.push(word);
            if words.len() == 1 && assignments.is_empty() && redirects.is_empty() {
                let name: String = self.text[start..self.at].iter().collect();
                self.blanks();
                if self.peek() == Some('(') && is_name(&name) {
                    return self.function(name);
                }
            }
        }
        if assignments.is_empty() && words.is_empty() && redirects.is_empty() {
            return Err(self.unexpected());
        }
        Ok(Command::Simple {
            assignments,
            words,
            redirects,
        })
    }

    fn function(&mut self, name: String) -> Parsed<Command> {
        self.at += 1;
        self.blanks();
        if !self.accept(")") {
            return Err(self.unexpected());
        }
        self.lines();
        let body = Arc::new(self.deeper(Self::command)?);
        match *body {
            Command::Compound { .. } => Ok(Command::Function { name, body }),
            _ => Err(ParseError::Wrong(format!(
                "the body of {name} must be in braces"
            ))),
        }
    }

    /// Consumes `NAME=`, if it is next.
    fn assigned_name(&mut self) -> Option<String> {
        let rest = self.text.iter().skip(self.at);
        let name: String = rest
            .take_while(|sign| sign.is_alphanumeric() || **sign == '_')
            .collect();
        let after = self.at + name.chars().count();
        let matches_next = is_name(&name) && self.text.get(after) == Some(&'=');
        matches_next.then(|| {
            self.at = after + 1;
            name
        })
    }

    fn redirect(&mut self) -> Parsed<Option<Redirect>> {
        let mut after = self.at;
        while self.text.get(after).is_some_and(char::is_ascii_digit) {
            after += 1;
        }
        let Some(sign @ ('<' | '>')) = self.text.get(after).copied() else {
            return Ok(None);
        };
        let number: String = self.text[self.at..after].iter().collect();
        self.at = after;
        let usual = u32::from(sign == '>');
        let descriptor = number.parse().unwrap_or(usual);
        let without_tabs = self.starts_with("<<-");
        let signs = [
            ("<<-", RedirectKind::Text),
            ("<<", RedirectKind::Text),
            (">>", RedirectKind::Append),
            ("<>", RedirectKind::ReadWrite),
            ("<&", RedirectKind::Duplicate),
            (">&", RedirectKind::Duplicate),
            (">|", RedirectKind::Write),
            ("<", RedirectKind::Read),
            (">", RedirectKind::Write),
        ];
        let operator = signs.into_iter().find(|(sign, _)| self.accept(sign));
        let Some((_, kind)) = operator else {
            return Err(self.unexpected());
        };
        self.blanks();
        let start = self.at;
        let target = self.word()?.ok_or_else(|| self.unexpected())?;
        let target = match kind {
            RedirectKind::Text => {
                let end: String = self.text[start..self.at].iter().collect();
                let bare: String = end
                    .chars()
                    .filter(|sign| !"'\"\\".contains(*sign))
                    .collect();
                let text = self.text_after_line(&bare, without_tabs)?;
                match bare == end {
                    true => Self::new(text.chars().collect(), self.depth).quoted_text(None)?,
                    false => vec![super::words::quoted(text)],
                }
            }
            _ => target,
        };
        Ok(Some(Redirect {
            descriptor,
            kind,
            target,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "if [ \"$1\" = 'a' ]; then x=${y:-$(echo `b` | c)}; cat <<E >f 2>&1 &\n$((1+$z))\nE\nfi; \
        for i in *; do case $i in a|[!b]) :;; esac; done; g() { (h) || ! k; }; until ${#x} ${p%%\\*}; do ~; done\n";

    /// Mutated scripts are parsed or refused, without a panic.
    #[test]
    fn no_text_is_too_wild() {
        assert!(parse(SCRIPT).is_ok(), "{:?}", parse(SCRIPT));
        let signs: Vec<char> = SCRIPT.chars().collect();
        let (mut read, mut refused) = (0, 0);
        for start in 0..=signs.len() {
            for end in start..=signs.len() {
                let part = signs[..start].iter().chain(&signs[end..]);
                match parse(&part.collect::<String>()) {
                    Ok(_) => read += 1,
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(read > 100 && refused > 100, "{read} {refused}");
    }
}
