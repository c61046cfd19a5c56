//! Text to syntax tree: the grammar of CEL, as far as it is allowed here, by recursive descent.

use super::Wrong;

/// A part of an expression, and where it stands, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub kind: Kind,
    pub from: usize,
    pub to: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Number(f64),
    Text(String),
    Boolean(bool),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(String, Vec<Node>),
    /// `!` or `-`
    Unary(&'static str, Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
}

/// How deep brackets, calls and signs may lie in each other.
const DEPTH: u32 = 24;

/// The operators of two sides, those that bind least first. All group from the left.
const LEVELS: [&[&str]; 5] = [
    &["||"],
    &["&&"],
    &["<=", ">=", "==", "!=", "<", ">", "in"],
    &["+", "-"],
    &["*", "/"],
];

/// Reads a whole text.
pub(super) fn parse(text: &str) -> Result<Node, Wrong> {
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let node = parser.level(0)?;
    parser.blank();
    if parser.at < text.len() {
        return Err(parser.expected("an operator such as && or > or the end"));
    }
    Ok(node)
}

/// The number of the character at a byte, from 1.
pub(super) fn character(text: &str, at: usize) -> usize {
    text.get(..at).map_or(0, |before| before.chars().count()) + 1
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Goes over blanks and comments.
    fn blank(&mut self) {
        loop {
            let rest = self.rest();
            let bare = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            let comment = bare.starts_with("//");
            let skipped = if comment {
                let end = bare.find('\n').unwrap_or(bare.len());
                rest.len() - bare.len() + end
            } else {
                rest.len() - bare.len()
            };
            self.at += skipped;
            if !comment {
                return;
            }
        }
    }

    /// Goes over this operator or bracket, where it comes next.
    fn take(&mut self, symbol: &str) -> bool {
        self.blank();
        let rest = self.rest();
        let found = rest.strip_prefix(symbol).is_some_and(|after| {
            let word = symbol.starts_with(char::is_alphabetic);
            !(word && after.starts_with(is_of_name))
        });
        if found {
            self.at += symbol.len();
        }
        found
    }

    fn need(&mut self, symbol: &str, what: &str) -> Result<(), Wrong> {
        if self.take(symbol) {
            Ok(())
        } else {
            Err(self.expected(what))
        }
    }

    fn wrong(&self, at: usize, message: impl Into<String>) -> Wrong {
        Wrong {
            at: character(self.text, at),
            message: message.into(),
        }
    }

    /// That something else was expected than what comes next.
    fn expected(&mut self, what: &str) -> Wrong {
        self.blank();
        let rest = self.rest();
        let word: String = rest
            .chars()
            .take_while(|c| is_of_name(*c))
            .take(24)
            .collect();
        let found = match (word.as_str(), rest.chars().next()) {
            ("", None) => "the end".into(),
            ("", Some(letter)) => format!("`{letter}`"),
            (word, _) => format!("`{word}`"),
        };
        let hint = match rest.chars().next() {
            Some('?') => "; there is no conditional: write (a && b) || (!a && c)",
            Some('.') => "; there are no members",
            Some('=') => "; equal is ==",
            Some('%') => "; there is no remainder, and a percentage is written as a fraction",
            Some('&' | '|') => "; and is &&, or is ||",
            _ => "",
        };
        self.wrong(self.at, format!("found {found}, expected {what}{hint}"))
    }

    /// One level more; an error where they are too many.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Wrong>) -> Result<T, Wrong> {
        if self.depth >= DEPTH {
            return Err(self.wrong(
                self.at,
                format!("brackets and signs lie more than {DEPTH} deep in each other"),
            ));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn level(&mut self, level: usize) -> Result<Node, Wrong> {
        let Some(operators) = LEVELS.get(level) else {
            return self.unary();
        };
        let mut left = self.level(level + 1)?;
        while let Some(operator) = self.operator(operators) {
            let right = self.level(level + 1)?;
            left = Node {
                from: left.from,
                to: right.to,
                kind: Kind::Binary(operator, Box::new(left), Box::new(right)),
            };
        }
        Ok(left)
    }

    fn operator(&mut self, operators: &[&'static str]) -> Option<&'static str> {
        operators
            .iter()
            .copied()
            .find(|operator| self.take(operator))
    }

    fn unary(&mut self) -> Result<Node, Wrong> {
        self.blank();
        let from = self.at;
        // `!=` is no sign.
        let sign = if self.rest().starts_with("!=") {
            None
        } else {
            self.operator(&["!", "-"])
        };
        let Some(sign) = sign else {
            return self.primary();
        };
        let of = self.deeper(Self::unary)?;
        Ok(Node {
            from,
            to: of.to,
            kind: Kind::Unary(sign, Box::new(of)),
        })
    }

    fn primary(&mut self) -> Result<Node, Wrong> {
        self.blank();
        let from = self.at;
        let kind = match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                let inner = self.deeper(|parser| parser.level(0))?;
                self.need(")", "`)`")?;
                // The brackets belong to the text of what is in them.
                return Ok(Node {
                    from,
                    to: self.at,
                    kind: inner.kind,
                });
            }
            Some('[') => {
                self.at += 1;
                Kind::List(self.deeper(|parser| parser.items("]", |item| item.level(0)))?)
            }
            Some('{') => {
                self.at += 1;
                Kind::Map(self.deeper(|parser| {
                    parser.items("}", |entry| {
                        let key = entry.level(0)?;
                        entry.need(":", "`:` and the level")?;
                        Ok((key, entry.level(0)?))
                    })
                })?)
            }
            Some('\'' | '"') => Kind::Text(self.text()?),
            Some(letter) if letter.is_ascii_digit() || letter == '.' => self.number()?,
            Some(letter) if letter.is_ascii_alphabetic() || letter == '_' => self.name()?,
            _ => return Err(self.expected("a number, a text or a function")),
        };
        Ok(Node {
            kind,
            from,
            to: self.at,
        })
    }

    /// The items between commas up to this bracket. As in CEL, a comma may stand before it, but in calls.
    fn items<T>(
        &mut self,
        end: &str,
        item: impl Fn(&mut Self) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let mut items = Vec::new();
        while !self.take(end) {
            if !items.is_empty() {
                self.need(",", &format!("`,` or `{end}`"))?;
                if end != ")" && self.take(end) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    fn name(&mut self) -> Result<Kind, Wrong> {
        let from = self.at;
        let length = self.rest().find(|c| !is_of_name(c));
        self.at += length.unwrap_or(self.rest().len());
        let name = self.text.get(from..self.at).unwrap_or_default().to_owned();
        match name.as_str() {
            "true" => return Ok(Kind::Boolean(true)),
            "false" => return Ok(Kind::Boolean(false)),
            _ => {}
        }
        if !self.take("(") {
            return Err(self.wrong(
                from,
                format!("`{name}` is no function without its `(`; names of factors and metrics are texts: '{name}'"),
            ));
        }
        let arguments = self.deeper(|parser| parser.items(")", |item| item.level(0)))?;
        Ok(Kind::Call(name, arguments))
    }

    /// A number as CEL has it: digits, a fraction with digits on its right, an exponent.
    fn number(&mut self) -> Result<Kind, Wrong> {
        let from = self.at;
        let digits = |parser: &mut Self| {
            let start = parser.at;
            let length = parser.rest().find(|c: char| !c.is_ascii_digit());
            parser.at += length.unwrap_or(parser.rest().len());
            parser.at > start
        };
        digits(self);
        let whole = self.at > from;
        let fraction = self.rest().starts_with('.') && {
            self.at += 1;
            if !digits(self) {
                return Err(self.expected("a digit after the point"));
            }
            true
        };
        let power = self.rest().starts_with(['e', 'E']);
        if power {
            self.at += 1;
            if self.rest().starts_with(['+', '-']) {
                self.at += 1;
            }
            if !digits(self) {
                return Err(self.expected("the digits of an exponent"));
            }
        }
        if self.rest().starts_with(|c| is_of_name(c) || c == '.') {
            return Err(self.expected("the end of the number: decimals such as 16, 0.7 or 1e3"));
        }
        let text = self.text.get(from..self.at).unwrap_or_default();
        // Whole numbers of CEL have 64 bits.
        let fits = fraction || power || text.parse::<i64>().is_ok();
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() && (whole || fraction) && fits => {
                Ok(Kind::Number(number))
            }
            _ => Err(self.wrong(
                from,
                format!("{text} is no number that can be computed with"),
            )),
        }
    }

    /// A text between quotes, with `\\`, `\'`, `\"`, `\n` and `\t` in it.
    fn text(&mut self) -> Result<String, Wrong> {
        let from = self.at;
        let rest = self.rest();
        let mut letters = rest.char_indices();
        let quote = letters.next().map_or('\'', |(_, quote)| quote);
        if rest.starts_with("'''") || rest.starts_with("\"\"\"") {
            return Err(self.wrong(from, "texts stand between single quotes, not three"));
        }
        let mut text = String::new();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => match letters.next() {
                    Some((_, letter @ ('\\' | '\'' | '"'))) => text.push(letter),
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    _ => {
                        let message = "after \\ one of \\ ' \" n and t is allowed";
                        return Err(self.wrong(from + at, message));
                    }
                },
                '\n' | '\r' => break,
                letter if letter == quote => {
                    self.at += at + 1;
                    return Ok(text);
                }
                letter => text.push(letter),
            }
        }
        Err(self.wrong(from, format!("this text has no {quote} at its end")))
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}
