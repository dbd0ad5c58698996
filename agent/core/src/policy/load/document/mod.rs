//! TOML documents as values with their places.
//!
//! A policy can have a hundred thousand entries, so values are small and borrow from the text:
//! `builder` makes them from the events of a few lines at a time. The crate `toml` reads the
//! documents that `builder` does not: those with errors, from which it recovers, and those with
//! what is rare in policies.

mod builder;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// Something with its range of bytes in the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spanned<T> {
    start: u32,
    end: u32,
    inner: T,
}

impl<T> Spanned<T> {
    /// Places beyond 4 GiB are at its end; no reader of files accepts such a text.
    fn new(span: Range<usize>, inner: T) -> Self {
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self {
            start: short(span.start),
            end: short(span.end),
            inner,
        }
    }

    pub(super) fn get_ref(&self) -> &T {
        &self.inner
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// Key with its place.
pub(super) type Key<'t> = Spanned<Cow<'t, str>>;

/// Value with its place.
pub(super) type Value<'t> = Spanned<Data<'t>>;

/// Value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data<'t> {
    String(Cow<'t, str>),
    /// An integer; `None` if it does not fit 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Datetime,
    Array(Vec<Value<'t>>),
    Table(Table<'t>),
}

impl<'t> Data<'t> {
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Integer(_)
            | Self::Float
            | Self::Boolean(_)
            | Self::Datetime
            | Self::Array(_)
            | Self::Table(_) => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::String(_)
            | Self::Integer(_)
            | Self::Float
            | Self::Datetime
            | Self::Array(_)
            | Self::Table(_) => None,
        }
    }

    pub(super) fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => *value,
            Self::String(_)
            | Self::Float
            | Self::Boolean(_)
            | Self::Datetime
            | Self::Array(_)
            | Self::Table(_) => None,
        }
    }

    pub(super) fn as_array(&self) -> Option<&[Value<'t>]> {
        match self {
            Self::Array(list) => Some(list),
            Self::String(_)
            | Self::Integer(_)
            | Self::Float
            | Self::Boolean(_)
            | Self::Datetime
            | Self::Table(_) => None,
        }
    }

    pub(super) fn as_table(&self) -> Option<&Table<'t>> {
        match self {
            Self::Table(table) => Some(table),
            Self::String(_)
            | Self::Integer(_)
            | Self::Float
            | Self::Boolean(_)
            | Self::Datetime
            | Self::Array(_) => None,
        }
    }
}

/// Different keys and their values, in the order of the text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Table<'t>(Vec<(Key<'t>, Value<'t>)>);

impl<'t> Table<'t> {
    pub(super) fn entries(&self) -> &[(Key<'t>, Value<'t>)] {
        &self.0
    }

    pub(super) fn entry(&self, key: &str) -> Option<&(Key<'t>, Value<'t>)> {
        self.0.iter().find(|(each, _)| each.get_ref() == key)
    }
}

/// Parses a document. After errors, the table contains what is valid.
pub(super) fn parse(text: &str) -> (Table<'_>, Vec<toml::de::Error>) {
    match builder::build(text) {
        Some(table) => (table, Vec::new()),
        None => recover(text),
    }
}

/// Parses any document.
fn recover(text: &str) -> (Table<'_>, Vec<toml::de::Error>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    (converted(table.into_inner()), errors)
}

fn converted(table: DeTable<'_>) -> Table<'_> {
    let entries = table.into_iter().map(|(key, value)| {
        let key = Spanned::new(key.span(), key.into_inner());
        (key, converted_value(value))
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(key, _)| key.start);
    Table(entries)
}

fn converted_value(value: toml::Spanned<DeValue<'_>>) -> Value<'_> {
    let span = value.span();
    let data = match value.into_inner() {
        DeValue::String(text) => Data::String(text),
        DeValue::Integer(number) => {
            Data::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok())
        }
        DeValue::Float(_) => Data::Float,
        DeValue::Boolean(value) => Data::Boolean(value),
        DeValue::Datetime(_) => Data::Datetime,
        DeValue::Array(list) => Data::Array(list.into_iter().map(converted_value).collect()),
        DeValue::Table(table) => Data::Table(converted(table)),
    };
    Spanned::new(span, data)
}
