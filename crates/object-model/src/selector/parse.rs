//! The grammar of label selectors in query strings.

use std::collections::BTreeSet;

use super::{Match, Requirement, SelectorError};
use crate::names;

/// Splits the text at special characters and white space; white space is dropped.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut symbol = String::new();
    for character in text.chars() {
        let special = "=!(),<>".contains(character);
        if special && !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        let joins = special && matches!((symbol.as_str(), character), ("=" | "!", '='));
        if !symbol.is_empty() && !joins {
            tokens.push(std::mem::take(&mut symbol));
        }
        if special {
            symbol.push(character);
        } else if !character.is_whitespace() {
            word.push(character);
        } else if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
    }
    tokens.extend([word, symbol].into_iter().filter(|rest| !rest.is_empty()));
    tokens
}

struct Parser {
    tokens: Vec<String>,
    position: usize,
}

impl Parser {
    fn peek(&self) -> &str {
        self.tokens.get(self.position).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        let token = self.peek().to_owned();
        self.position += 1;
        token
    }

    fn at_end(&self) -> bool {
        self.position >= self.tokens.len()
    }
}

fn unexpected(token: &str, expected: &str) -> SelectorError {
    SelectorError::Syntax(format!("found '{token}', expected: {expected}"))
}

fn is_word(token: &str) -> bool {
    !token.is_empty() && !token.starts_with(['=', '!', '(', ')', ',', '<', '>'])
}

pub(super) fn selector(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser {
        tokens: tokens(text),
        position: 0,
    };
    let mut all = Vec::new();
    while !parser.at_end() {
        all.push(requirement(&mut parser)?);
        match parser.next().as_str() {
            "" => break,
            "," if is_word(parser.peek()) || parser.peek() == "!" => {}
            "," => return Err(unexpected(parser.peek(), "identifier after ','")),
            other => return Err(unexpected(other, "',' or 'end of string'")),
        }
    }
    Ok(all)
}

fn requirement(parser: &mut Parser) -> Result<Requirement, SelectorError> {
    let negated = parser.peek() == "!";
    if negated {
        parser.next();
    }
    let key = parser.next();
    if !is_word(&key) {
        return Err(unexpected(&key, "identifier"));
    }
    if let Some(error) = names::qualified_name(&key).first() {
        let text = format!("<nil>: Invalid value: {key:?}: {error}");
        return Err(SelectorError::Syntax(text));
    }
    let condition = if negated {
        Match::DoesNotExist
    } else if parser.at_end() || parser.peek() == "," {
        Match::Exists
    } else {
        comparison(parser)?
    };
    for value in condition_values(&condition) {
        if let Some(error) = names::label_value(value).first() {
            let text = format!("values[0][{key}]: Invalid value: {value:?}: {error}");
            return Err(SelectorError::Syntax(text));
        }
    }
    Ok(Requirement { key, condition })
}

fn condition_values(condition: &Match) -> impl Iterator<Item = &String> {
    match condition {
        Match::In(values) | Match::NotIn(values) => Some(values),
        _ => None,
    }
    .into_iter()
    .flatten()
}

fn comparison(parser: &mut Parser) -> Result<Match, SelectorError> {
    let operator = parser.next();
    match operator.as_str() {
        "=" | "==" => Ok(Match::In(BTreeSet::from([single(parser)?]))),
        "!=" => Ok(Match::NotIn(BTreeSet::from([single(parser)?]))),
        "in" => Ok(Match::In(list(parser)?)),
        "notin" => Ok(Match::NotIn(list(parser)?)),
        ">" => Ok(Match::GreaterThan(integer(parser)?)),
        "<" => Ok(Match::LessThan(integer(parser)?)),
        other => Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
    }
}

fn single(parser: &mut Parser) -> Result<String, SelectorError> {
    if parser.at_end() || parser.peek() == "," {
        return Ok(String::new());
    }
    let token = parser.next();
    if is_word(&token) {
        Ok(token)
    } else {
        Err(unexpected(&token, "identifier"))
    }
}

fn integer(parser: &mut Parser) -> Result<i64, SelectorError> {
    let token = single(parser)?;
    token.parse().map_err(|_| {
        SelectorError::Syntax(format!(
            "values[0]: Invalid value: {token:?}: for 'Gt', 'Lt' operators, the value must \
             be an integer"
        ))
    })
}

fn list(parser: &mut Parser) -> Result<BTreeSet<String>, SelectorError> {
    let open = parser.next();
    if open != "(" {
        return Err(unexpected(&open, "'('"));
    }
    let mut values = BTreeSet::new();
    loop {
        let token = parser.next();
        match token.as_str() {
            "," | ")" => {
                values.insert(String::new());
                if token == ")" {
                    return Ok(values);
                }
                continue;
            }
            word if is_word(word) => values.insert(token),
            other => return Err(unexpected(other, "',', ')' or identifier")),
        };
        match parser.next().as_str() {
            "," => {}
            ")" => return Ok(values),
            other => return Err(unexpected(other, "',' or ')'")),
        }
    }
}
