//! Which known word somebody meant; for settings of brokers as for those of topics.

/// More differences than this and it is another word.
const DISTANCE_MAX: usize = 4;

/// The longest word that is compared, in bytes; the cost is quadratic.
const WORD_BYTES_MAX: usize = 64;

/// The one of `known` with the smallest edit distance to `word`, if it is near.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .min()
        .filter(|&(distance, _)| distance <= DISTANCE_MAX)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, from) in left.bytes().enumerate() {
        let mut diagonal = at;
        let mut before = at + 1;
        let mut next = vec![before];
        for (above, to) in row.iter().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            before = replaced.min(before + 1).min(above + 1);
            diagonal = *above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("flush", "flush"), 0);
    }
}
