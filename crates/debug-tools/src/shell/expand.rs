//! Expands words to arguments.

use std::io::Read;

use super::arithmetic;
use super::pattern::{self, Sign};
use super::run::{Leave, Shell};
use super::syntax::{Computed, DefaultAction, ParameterExpansion, Part, Script, Word};

/// A word under construction.
#[derive(Default)]
struct Field {
    signs: Vec<Sign>,
    /// Whether the field is a word even if it is empty.
    is_there: bool,
}

impl Field {
    fn add(&mut self, text: &str, is_quoted: bool) {
        self.signs
            .extend(text.chars().map(|sign| (sign, is_quoted)));
        self.is_there |= is_quoted || !text.is_empty();
    }

    fn text(&self) -> String {
        self.signs.iter().map(|(sign, _)| *sign).collect()
    }
}

impl Shell {
    /// Expands words to arguments.
    pub fn arguments_of(&mut self, words: &[Word]) -> Result<Vec<String>, Leave> {
        let mut arguments = Vec::new();
        for word in words {
            for field in self.fields(word, true)? {
                if pattern::is_pattern(&field.signs) && !self.state.options.without_patterns {
                    let files = pattern::files(&field.signs, &self.state.directory);
                    if !files.is_empty() {
                        arguments.extend(files);
                        continue;
                    }
                }
                arguments.push(field.text());
            }
        }
        Ok(arguments)
    }

    /// Expands a word to one text, without splitting.
    pub fn text_of(&mut self, word: &Word) -> Result<String, Leave> {
        let signs = self.signs_of(word)?;
        Ok(signs.into_iter().map(|(sign, _)| sign).collect())
    }

    /// Expands a word to a pattern.
    pub fn signs_of(&mut self, word: &Word) -> Result<Vec<Sign>, Leave> {
        let fields = self.fields(word, false)?;
        let mut signs = Vec::new();
        for (number, field) in fields.into_iter().enumerate() {
            if number > 0 {
                signs.push((' ', true));
            }
            signs.extend(field.signs);
        }
        Ok(signs)
    }

    /// Expands a word to fields; without splitting, only `"$@"` results in several.
    fn fields(&mut self, word: &Word, splits: bool) -> Result<Vec<Field>, Leave> {
        let mut fields = Vec::new();
        let mut current = Field::default();
        for part in word {
            let (value, is_quoted) = match part {
                Part::Text { text, is_quoted } => {
                    current.add(text, *is_quoted);
                    continue;
                }
                Part::Computed { value, is_quoted } => (value, *is_quoted),
            };
            if let Computed::Variable { name, change } = value
                && name == "@"
                && *change == ParameterExpansion::None
                && (is_quoted || splits)
            {
                self.add_arguments(&mut fields, &mut current, is_quoted);
                continue;
            }
            // The word in "${name:-word}" is split as if it were outside of the braces.
            if let Computed::Variable { name, change } = value
                && !is_quoted
                && splits
                && let Some(word) = self.chosen(name, change)
            {
                let mut inner = self.fields(&word.clone(), splits)?.into_iter();
                if let Some(first) = inner.next() {
                    current.is_there |= first.is_there;
                    current.signs.extend(first.signs);
                }
                for field in inner {
                    fields.push(std::mem::replace(&mut current, field));
                }
                continue;
            }
            let text = self.computed(value)?;
            if is_quoted || !splits {
                current.add(&text, is_quoted);
                continue;
            }
            self.split(&text, &mut fields, &mut current);
        }
        if current.is_there || !splits {
            fields.push(current);
        }
        Ok(fields)
    }

    /// The word of `${name:-word}`, if the expansion uses it.
    fn chosen<'w>(&self, name: &str, change: &'w ParameterExpansion) -> Option<&'w Word> {
        let ParameterExpansion::Default {
            action,
            also_empty,
            word,
        } = change
        else {
            return None;
        };
        let value = self.state.value(name);
        let has_value = value.is_some_and(|value| !(value.is_empty() && *also_empty));
        match action {
            DefaultAction::Use => (!has_value).then_some(word),
            DefaultAction::UseInstead => has_value.then_some(word),
            DefaultAction::Assign | DefaultAction::Fail => None,
        }
    }

    fn add_arguments(&self, fields: &mut Vec<Field>, current: &mut Field, is_quoted: bool) {
        for (number, argument) in self.state.arguments.iter().enumerate() {
            if number > 0 {
                fields.push(std::mem::take(current));
            }
            match is_quoted {
                true => current.add(argument, true),
                false => self.split(argument, fields, current),
            }
        }
    }

    /// Splits a text at the separators.
    fn split(&self, text: &str, fields: &mut Vec<Field>, current: &mut Field) {
        let separators = self.state.separators();
        let mut after_separator = false;
        for sign in text.chars() {
            if !separators.contains(sign) {
                current.add(sign.encode_utf8(&mut [0; 4]), false);
                after_separator = false;
                continue;
            }
            let is_blank = sign.is_whitespace();
            // Adjacent blanks are one separator; between other separators there is an empty word.
            if current.is_there || (!is_blank && !after_separator) {
                current.is_there = true;
                fields.push(std::mem::take(current));
            }
            after_separator = is_blank;
        }
    }

    fn computed(&mut self, value: &Computed) -> Result<String, Leave> {
        match value {
            Computed::Home => Ok(self.state.value("HOME").unwrap_or_else(|| "/".to_owned())),
            Computed::Output(script) => self.output_of(script),
            Computed::Arithmetic(word) => {
                let text = self.text_of(word)?;
                let state = &self.state;
                let value = |name: &str| state.value(name).unwrap_or_default();
                let number = arithmetic::evaluate(&text, &value);
                let number = number.map_err(|error| self.failure(&error.to_string()))?;
                Ok(number.to_string())
            }
            Computed::Variable { name, change } => self.variable(name, change),
        }
    }

    fn variable(&mut self, name: &str, change: &ParameterExpansion) -> Result<String, Leave> {
        let value = self.state.value(name);
        match change {
            ParameterExpansion::None
            | ParameterExpansion::Length
            | ParameterExpansion::Cut { .. }
                if value.is_none() && self.state.options.unset_is_error =>
            {
                Err(self.failure(&format!("{name} is not set")))
            }
            ParameterExpansion::None => Ok(value.unwrap_or_default()),
            ParameterExpansion::Length => Ok(value.unwrap_or_default().chars().count().to_string()),
            ParameterExpansion::Cut {
                at_end,
                longest,
                pattern,
            } => {
                let pattern = self.signs_of(pattern)?;
                let value: Vec<char> = value.unwrap_or_default().chars().collect();
                Ok(cut(&value, &pattern, *at_end, *longest))
            }
            ParameterExpansion::Default {
                action,
                also_empty,
                word,
            } => {
                let value = value.filter(|value| !(value.is_empty() && *also_empty));
                match (action, value) {
                    (DefaultAction::UseInstead, None) => Ok(String::new()),
                    (DefaultAction::UseInstead, Some(_)) | (DefaultAction::Use, None) => {
                        self.text_of(word)
                    }
                    (DefaultAction::Assign, None) => {
                        let text = self.text_of(word)?;
                        self.state.set(name, &text);
                        Ok(text)
                    }
                    (DefaultAction::Fail, None) => {
                        let text = self.text_of(word)?;
                        let text = if text.is_empty() { "not set" } else { &text };
                        Err(self.failure(&format!("{name}: {text}")))
                    }
                    (_, Some(value)) => Ok(value),
                }
            }
        }
    }

    /// The output of a script, without newlines at its end.
    fn output_of(&mut self, script: &Script) -> Result<String, Leave> {
        let pipe = std::io::pipe().and_then(|(mut reader, writer)| {
            let thread = std::thread::Builder::new().spawn(move || {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            })?;
            Ok((thread, writer))
        });
        let (thread, writer) = pipe.map_err(|error| self.failure(&error.to_string()))?;
        let mut shell = self.copy();
        shell.files.put(1, writer.into());
        self.state.status = shell.run_apart(|shell| shell.script(script));
        drop(shell);
        let bytes = thread.join().ok().and_then(Result::ok).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.trim_end_matches('\n').to_owned())
    }
}

/// The text without the part that matches the pattern.
fn cut(text: &[char], pattern: &[Sign], at_end: bool, longest: bool) -> String {
    let offsets: Vec<usize> = (0..=text.len()).collect();
    // In the order of preference: the shortest or the longest match first.
    let mut offsets: Box<dyn Iterator<Item = &usize>> = match at_end != longest {
        true => Box::new(offsets.iter().rev()),
        false => Box::new(offsets.iter()),
    };
    let match_offset = offsets.find(|offset| {
        let (start, end) = text.split_at(**offset);
        pattern::matches(pattern, if at_end { end } else { start })
    });
    let remaining = match (match_offset, at_end) {
        (None, _) => text,
        (Some(offset), true) => &text[..*offset],
        (Some(offset), false) => &text[*offset..],
    };
    remaining.iter().collect()
}
