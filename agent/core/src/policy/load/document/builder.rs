//! Builds a document from the parser's events, without keeping tokens or events.
//!
//! `toml_parser` checks the syntax. The builder gives up at the first error, and at what it leaves
//! to the crate `toml`: dotted keys, dates, and tables that are defined twice or extended later.

use std::borrow::Cow;
use std::collections::HashSet;

use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::lexer::{Token, TokenKind};
use toml_parser::parser::{EventReceiver, RecursionGuard, ValidateWhitespace, parse_document};
use toml_parser::{ErrorSink, ParseError, Raw, Source, Span};

use super::{Data, Key, Spanned, Table, Value};

/// Number of tokens after which a block of lines is parsed.
const TOKENS: usize = 1024;

/// Maximum depth of lists and inline tables, as in the crate `toml`.
const DEPTH_MAX: u32 = 80;

/// Number of keys up to which a key is compared with all others.
const FEW: usize = 32;

/// Builds a document; `None` if only the crate `toml` reads it.
pub(super) fn build(text: &str) -> Option<Table<'_>> {
    build_by(text, TOKENS)
}

/// Builds a document from blocks of lines with at least this number of tokens.
pub(super) fn build_by(text: &str, count: usize) -> Option<Table<'_>> {
    // Places have 32 bits.
    u32::try_from(text.len()).ok()?;
    let source = Source::new(text);
    let mut builder = Builder::new(source);
    let mut tokens: Vec<Token> = Vec::with_capacity(count);
    let mut depth = 0usize;
    for token in source.lex() {
        tokens.push(token);
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                depth = depth.saturating_sub(1);
            }
            // A document is a sequence of lines, except inside of brackets.
            TokenKind::Newline if depth == 0 && tokens.len() >= count => {
                builder.lines(&tokens)?;
                tokens.clear();
            }
            TokenKind::Newline
            | TokenKind::Dot
            | TokenKind::Equals
            | TokenKind::Comma
            | TokenKind::Whitespace
            | TokenKind::Comment
            | TokenKind::LiteralString
            | TokenKind::BasicString
            | TokenKind::MlLiteralString
            | TokenKind::MlBasicString
            | TokenKind::Atom
            | TokenKind::Eof => {}
        }
    }
    builder.lines(&tokens)?;
    builder.finish()
}

/// A list or an inline table that is not closed yet.
enum Open<'t> {
    List(Span, Vec<Value<'t>>),
    Table(Span, Option<Key<'t>>, Table<'t>),
}

/// Header of a table: `[a.b]` or `[[a.b]]`.
struct Header<'t> {
    span: Span,
    is_of_list: bool,
    path: Vec<Key<'t>>,
}

struct Builder<'t> {
    source: Source<'t>,
    /// Keys before the first header, and all tables before the current one.
    root: Table<'t>,
    /// Table of the last header; that of the document before the first.
    current: Table<'t>,
    /// Header of `current`; `None` for the document.
    header: Option<Header<'t>>,
    /// Whether a header is being read.
    is_in_header: bool,
    /// Key of the current line.
    key: Option<Key<'t>>,
    /// Lists and inline tables around the next value.
    open: Vec<Open<'t>>,
    /// Whether the builder gave up.
    has_given_up: bool,
}

impl<'t> Builder<'t> {
    fn new(source: Source<'t>) -> Self {
        Self {
            source,
            root: Table::default(),
            current: Table::default(),
            header: None,
            is_in_header: false,
            key: None,
            open: Vec::new(),
            has_given_up: false,
        }
    }

    /// Adds complete lines; `None` if the builder gives up.
    fn lines(&mut self, tokens: &[Token]) -> Option<()> {
        let mut has_errors = false;
        let mut error = |_: ParseError| has_errors = true;
        let source = self.source;
        let mut receiver = ValidateWhitespace::new(self, source);
        let mut receiver = RecursionGuard::new(&mut receiver, DEPTH_MAX);
        parse_document(tokens, &mut receiver, &mut error);
        (!has_errors && !self.has_given_up).then_some(())
    }

    /// Returns the document; `None` if the builder gives up.
    fn finish(mut self) -> Option<Table<'t>> {
        self.finish_table()?;
        self.root.0.shrink_to_fit();
        Some(self.root)
    }

    /// Moves the current table to its place.
    fn finish_table(&mut self) -> Option<()> {
        let mut table = std::mem::take(&mut self.current);
        if has_repeated_key(&table) {
            return None;
        }
        let Some(mut header) = self.header.take() else {
            self.root = table;
            return Some(());
        };
        table.0.shrink_to_fit();
        let span = header.span.start()..header.span.end();
        let key = header.path.pop()?;
        let table = Spanned::new(span.clone(), Data::Table(table));
        let mut parent = &mut self.root;
        for key in header.path {
            parent = child(self.source, parent, key)?;
        }
        match (position(parent, &key)?, header.is_of_list) {
            (None, false) => parent.0.push((key, table)),
            (None, true) => {
                let list = Spanned::new(span, Data::Array(vec![table]));
                parent.0.push((key, list));
            }
            (Some(known), true) => {
                let (_, list) = parent.0.get_mut(known)?;
                tables(self.source, list)?.push(table);
            }
            (Some(_), false) => return None,
        }
        Some(())
    }

    fn open_header(&mut self, span: Span, is_of_list: bool) {
        if self.finish_table().is_none() {
            self.give_up();
        }
        self.is_in_header = true;
        self.header = Some(Header {
            span,
            is_of_list,
            path: Vec::new(),
        });
    }

    fn close_header(&mut self, span: Span) {
        self.is_in_header = false;
        if let Some(header) = &mut self.header {
            header.span = header.span.append(span);
        }
    }

    fn raw(&self, span: Span, encoding: Option<Encoding>) -> Raw<'t> {
        let text = self.source.input().get(span.start()..span.end());
        Raw::new_unchecked(text.unwrap_or_default(), encoding, span)
    }

    /// Adds a value to the innermost list or table.
    fn add(&mut self, span: std::ops::Range<usize>, data: Data<'t>) {
        let value = Spanned::new(span, data);
        let (key, table) = match self.open.last_mut() {
            Some(Open::List(_, list)) => return list.push(value),
            Some(Open::Table(_, key, table)) => (key, table),
            None => (&mut self.key, &mut self.current),
        };
        match key.take() {
            Some(key) => table.0.push((key, value)),
            None => self.give_up(),
        }
    }

    fn give_up(&mut self) {
        self.has_given_up = true;
    }
}

impl EventReceiver for Builder<'_> {
    fn std_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.open_header(span, false);
    }

    fn std_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.close_header(span);
    }

    fn array_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.open_header(span, true);
    }

    fn array_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.close_header(span);
    }

    fn inline_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open.push(Open::Table(span, None, Table::default()));
        true
    }

    fn inline_table_close(&mut self, end: Span, _: &mut dyn ErrorSink) {
        match self.open.pop() {
            Some(Open::Table(span, None, table)) if !has_repeated_key(&table) => {
                self.add(span.start()..end.end(), Data::Table(table));
            }
            Some(Open::Table(..) | Open::List(..)) | None => self.give_up(),
        }
    }

    fn array_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open.push(Open::List(span, Vec::new()));
        true
    }

    fn array_close(&mut self, end: Span, _: &mut dyn ErrorSink) {
        match self.open.pop() {
            Some(Open::List(span, mut list)) => {
                list.shrink_to_fit();
                self.add(span.start()..end.end(), Data::Array(list));
            }
            Some(Open::Table(..)) | None => self.give_up(),
        }
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut text = Cow::Borrowed("");
        self.raw(span, encoding).decode_key(&mut text, error);
        let key = Spanned::new(span.start()..span.end(), text);
        if let Some(header) = self.header.as_mut().filter(|_| self.is_in_header) {
            header.path.push(key);
            if header.path.len() > FEW {
                self.give_up();
            }
            return;
        }
        let slot = match self.open.last_mut() {
            Some(Open::Table(_, slot, _)) => slot,
            Some(Open::List(..)) | None => &mut self.key,
        };
        // The second part of a dotted key.
        if slot.replace(key).is_some() {
            self.give_up();
        }
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, error: &mut dyn ErrorSink) {
        let mut text = Cow::Borrowed("");
        let data = match self.raw(span, encoding).decode_scalar(&mut text, error) {
            ScalarKind::String => Data::String(text),
            ScalarKind::Boolean(value) => Data::Boolean(value),
            ScalarKind::Integer(radix) => {
                Data::Integer(i64::from_str_radix(&text, radix.value()).ok())
            }
            ScalarKind::Float => Data::Float,
            ScalarKind::DateTime => return self.give_up(),
        };
        self.add(span.start()..span.end(), data);
    }

    fn error(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.give_up();
    }
}

/// Reports whether a table has a key twice.
fn has_repeated_key(table: &Table<'_>) -> bool {
    let keys = || table.0.iter().map(|(key, _)| key.get_ref());
    match table.0.len() {
        0 | 1 => false,
        ..=FEW => keys()
            .enumerate()
            .any(|(count, key)| keys().take(count).any(|earlier| earlier == key)),
        len => {
            let mut known = HashSet::with_capacity(len);
            !keys().all(|key| known.insert(key))
        }
    }
}

/// Finds a key; `None` if the table has too many.
fn position(table: &Table<'_>, key: &Key<'_>) -> Option<Option<usize>> {
    let is_same = |(each, _): &(Key<'_>, Value<'_>)| each.get_ref() == key.get_ref();
    (table.0.len() <= FEW).then(|| table.0.iter().position(is_same))
}

/// Returns the table that a part of a header names, or creates it; `None` if it cannot be extended.
fn child<'p, 't>(
    source: Source<'t>,
    parent: &'p mut Table<'t>,
    key: Key<'t>,
) -> Option<&'p mut Table<'t>> {
    let at = match position(parent, &key)? {
        Some(at) => at,
        None => {
            let table = Spanned::new(key.span(), Data::Table(Table::default()));
            parent.0.push((key, table));
            parent.0.len() - 1
        }
    };
    let (_, value) = parent.0.get_mut(at)?;
    let value = match &value.inner {
        Data::Array(_) => tables(source, value)?.last_mut()?,
        Data::Table(_) => value,
        Data::String(_) | Data::Integer(_) | Data::Float | Data::Boolean(_) | Data::Datetime => {
            return None;
        }
    };
    let is_extensible = is_of_header(source, value.start);
    match &mut value.inner {
        Data::Table(table) if is_extensible => Some(table),
        Data::Table(_)
        | Data::String(_)
        | Data::Integer(_)
        | Data::Float
        | Data::Boolean(_)
        | Data::Datetime
        | Data::Array(_) => None,
    }
}

/// Returns the tables of a list that headers define.
fn tables<'p, 't>(source: Source<'t>, list: &'p mut Value<'t>) -> Option<&'p mut Vec<Value<'t>>> {
    let Data::Array(list) = &mut list.inner else {
        return None;
    };
    let last = list.last()?;
    let is_of_headers = last.inner.as_table().is_some() && is_of_header(source, last.start);
    is_of_headers.then_some(list)
}

/// Reports whether a table that starts at this byte is that of a header, not an inline table.
fn is_of_header(source: Source<'_>, start: u32) -> bool {
    source.input().as_bytes().get(start as usize) != Some(&b'{')
}
