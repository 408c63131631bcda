//! `--name value` pairs and positional words. A name that nobody asked for is an error, so that a typing mistake
//! cannot silently measure something else.

use std::collections::BTreeMap;
use std::error::Error;
use std::str::FromStr;

/// Anything that ends the program with a message.
pub type Problem = Box<dyn Error>;

/// Names that stand alone.
const FLAGS: [&str; 4] = ["resume", "h2", "again", "until-eof"];

#[derive(Debug)]
pub struct Args {
    words: Vec<String>,
    named: BTreeMap<String, String>,
}

impl Args {
    pub fn parse(given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut words, mut named) = (Vec::new(), BTreeMap::new());
        let mut given = given;
        while let Some(word) = given.next() {
            let Some(name) = word.strip_prefix("--") else {
                words.push(word);
                continue;
            };
            let value = if FLAGS.contains(&name) { Some(String::new()) } else { given.next() };
            named.insert(name.to_owned(), value.ok_or(format!("--{name} wants a value"))?);
        }
        Ok(Self { words, named })
    }

    pub fn positional(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(String::as_str)
    }

    pub fn flag(&mut self, name: &str) -> bool {
        self.named.remove(name).is_some()
    }

    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        match self.named.remove(name) {
            None => Ok(None),
            Some(value) => match value.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(format!("--{name}: {value:?} cannot be read").into()),
            },
        }
    }

    pub fn or<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, Problem> {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    pub fn required<T: FromStr>(&mut self, name: &str) -> Result<T, Problem> {
        self.optional(name)?.ok_or_else(|| format!("--{name} is needed").into())
    }

    /// A list with commas; empty where the name was not given.
    pub fn list<T: FromStr>(&mut self, name: &str) -> Result<Vec<T>, Problem> {
        let given: String = self.or(name, String::new())?;
        let items = given.split(',').filter(|item| !item.is_empty());
        items.map(|item| item.parse().map_err(|_| format!("--{name}: {item:?} cannot be read").into())).collect()
    }

    /// To be called when everything has been asked for.
    pub fn done(&self) -> Result<(), Problem> {
        match self.named.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("--{name} has no meaning here").into()),
        }
    }
}
