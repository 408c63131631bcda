//! "Did you mean": the known word nearest to one that is not known.
//!
//! Pure. Distance counts insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).

/// Longer words than this are not compared: nobody misspells a key that badly, and the work is quadratic.
const LONGEST: usize = 64;

/// The nearest candidate, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if word.len() > LONGEST {
        return None;
    }
    // One slip in a short word, up to three in a long one.
    let allowed = (word.len() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.chars().take(LONGEST).collect::<Vec<_>>()), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let substituted = last[j] + usize::from(a[i] != b[j]);
            let mut best = substituted.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_of_the_finger_finds_the_word() {
        let keys = ["origins", "allow_missing_origin", "subprotocols", "extensions"];
        for (typed, meant) in [("orgins", "origins"), ("oirgins", "origins"), ("Extension", "extensions")] {
            assert_eq!(nearest(typed, keys), Some(meant), "{typed}");
        }
    }

    #[test]
    fn a_word_of_another_kind_finds_nothing() {
        assert_eq!(nearest("upstream", ["origins", "tls"]), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest(&"o".repeat(100_000), ["origins"]), None);
    }
}
