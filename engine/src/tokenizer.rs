//! Text to ids and back, and prompts of an exact length: out of a fixed text where there is a
//! tokenizer, seeded ids where there is none.

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer as Inner};

use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::random::{mix, stream};
use crate::weights::gguf::{self, Gguf};

/// Texts in the public domain: the Declaration of Independence, the Gettysburg Address, Genesis (King
/// James), and openings of Hamlet's soliloquy, A Tale of Two Cities and Moby-Dick.
const TEXT: &str = include_str!("../assets/prompts.txt");

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
}

impl Tokenizer {
    /// Loads what the GGUF file at or in `path` carries, see [`crate::gguf_file`]; where there is no such file,
    /// `tokenizer.json` in the folder `path`. None where there is no tokenizer, or one of a kind that no code here
    /// reads.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] names the file that is broken.
    pub fn load(path: &Path) -> Result<Option<Self>, EngineError> {
        let (file, inner) = match gguf::find(path)? {
            Some(file) => {
                let inner = of_gguf(Gguf::open(&file)?.content());
                (file, inner.map_err(|e| e.to_string()))
            }
            None => {
                let file = path.join("tokenizer.json");
                if !file.is_file() {
                    return Ok(None);
                }
                let inner = Inner::from_file(&file).map(Some);
                (file, inner.map_err(|e| e.to_string()))
            }
        };
        let broken =
            |e: &dyn std::fmt::Display| EngineError::Invalid(format!("{}: {e}", file.display()));
        let Some(mut inner) = inner.map_err(|e| broken(&e))? else {
            return Ok(None);
        };
        // A file's own padding or truncation must not change the lengths that a caller asks for.
        inner
            .with_padding(None)
            .with_truncation(None)
            .map_err(|e| broken(&e))?;
        Ok(Some(Self { inner }))
    }

    /// The ids of a text, with those that the model expects around one (a begin id, for some).
    ///
    /// # Errors
    /// When the tokenizer has no id for a piece of the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .inner
            .encode_fast(text, true)
            .map_err(|e| EngineError::Invalid(format!("encoding text: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids, special ones left out. Ids that make no text become `�`.
    ///
    /// # Errors
    /// When the tokenizer cannot decode them.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.inner
            .decode(ids, true)
            .map_err(|e| EngineError::Invalid(format!("decoding ids: {e}")))
    }
}

/// The tokenizer in a GGUF file, where it is a byte-level BPE that cuts text in a known way: candle builds it, but
/// knows few of the names for that way, and puts a space before every text where it knows none.
fn of_gguf(content: &Content) -> candle_core::Result<Option<Inner>> {
    let text = |key: &str| match content.metadata.get(key) {
        Some(Value::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if text("tokenizer.ggml.model") != Some("gpt2") {
        return Ok(None);
    }
    // GPT-2's pattern; offsets are of no interest.
    let bytes = |use_regex| ByteLevel::new(false, true, use_regex);
    let cut_first = |pattern: &str| {
        let pattern = SplitPattern::Regex(pattern.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(candle_core::Error::wrap)?;
        Ok::<_, candle_core::Error>(Sequence::new(vec![split.into(), bytes(false).into()]))
    };
    let cut: PreTokenizerWrapper = match text("tokenizer.ggml.pre") {
        Some("gpt-2" | "gpt2") | None => bytes(true).into(),
        Some("smollm") => Sequence::new(vec![Digits::new(true).into(), bytes(true).into()]).into(),
        Some("llama-bpe" | "llama3" | "llama-v3") => cut_first(LLAMA3)?.into(),
        Some("qwen2") => cut_first(&LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))?.into(),
        Some(_) => return Ok(None),
    };
    let mut inner = Inner::from_gguf(content)?;
    inner
        .with_pre_tokenizer(Some(cut))
        .with_decoder(Some(ByteLevel::default()));
    Ok(Some(inner))
}

/// The pattern in Llama 3's `tokenizer.json`; Qwen2's cuts numbers into single digits.
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// `batch` prompts of exactly `len` ids each, all within the model's vocabulary. The rows differ, and
/// so do the prompts of another seed; the same arguments give the same prompts.
///
/// With a tokenizer a prompt is the beginning of a fixed text, read from a word that seed and row
/// choose and repeated as often as needed; a begin id that the tokenizer adds counts. Without one, ids
/// are drawn evenly from the vocabulary less its special ids.
///
/// # Errors
/// [`EngineError::Invalid`] where the tokenizer gives ids outside the model's vocabulary, or too few
/// however long the text.
pub fn prompts(
    tokenizer: Option<&Tokenizer>,
    config: &ModelConfig,
    batch: usize,
    len: usize,
    seed: u64,
) -> Result<Vec<Vec<u32>>, EngineError> {
    (0..batch)
        .map(|row| match tokenizer {
            Some(tokenizer) => from_text(tokenizer, config, row, len, seed),
            None => Ok(from_seed(config, row, len, seed)),
        })
        .collect()
}

fn from_text(
    tokenizer: &Tokenizer,
    config: &ModelConfig,
    row: usize,
    len: usize,
    seed: u64,
) -> Result<Vec<u32>, EngineError> {
    let words: Vec<&str> = TEXT.split(' ').collect();
    let first = mix(stream(seed, "prompt text"));
    // Rows begin a few words apart, so that no two of up to a hundred or so begin alike.
    let start = ((first % words.len() as u64) as usize + row * 11) % words.len();
    // Hardly a word is less than a token.
    let mut wanted = len + 16;
    loop {
        let text = words[start..]
            .iter()
            .chain(words.iter().cycle())
            .take(wanted)
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        let mut ids = tokenizer.encode(&text)?;
        if ids.len() >= len {
            ids.truncate(len);
            if let Some(id) = ids.iter().find(|&&id| id as usize >= config.vocab_size) {
                return Err(EngineError::Invalid(format!(
                    "tokenizer.json: id {id} is outside the model's vocabulary of {}",
                    config.vocab_size
                )));
            }
            return Ok(ids);
        }
        if wanted > 64 * (len + 16) {
            return Err(EngineError::Invalid(format!(
                "tokenizer.json: {wanted} words give only {} ids of {len}",
                ids.len()
            )));
        }
        wanted *= 2;
    }
}

fn from_seed(config: &ModelConfig, row: usize, len: usize, seed: u64) -> Vec<u32> {
    let vocab = config.vocab_size as u64;
    let special: BTreeSet<u64> = config
        .special_ids
        .iter()
        .map(|&id| u64::from(id))
        .filter(|&id| id < vocab)
        .collect();
    // A vocabulary of nothing but special ids has no others to draw.
    let free = (vocab - special.len() as u64).max(1);
    let key = stream(seed, "prompt ids").wrapping_add((row as u64) << 32);
    (0..len as u64)
        .map(|i| {
            // The draw counts ordinary ids; each special one at or below it moves it up by one.
            let draw = mix(key.wrapping_add(i)) % free;
            let id = special.iter().fold(draw, |id, &s| id + u64::from(s <= id));
            id.min(vocab - 1) as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::presets::preset;

    /// A word-level tokenizer over the text's own words, with a begin id as Llama's has.
    fn tokenizer() -> Tokenizer {
        let words: BTreeSet<&str> = TEXT.split_whitespace().collect();
        let mut vocab = serde_json::Map::new();
        vocab.insert("<s>".into(), 0.into());
        vocab.insert("<unk>".into(), 1.into());
        for word in words {
            vocab.insert(word.into(), vocab.len().into());
        }
        let json = serde_json::json!({
            "version": "1.0", "truncation": {"max_length": 8, "strategy": "LongestFirst",
                "stride": 0, "direction": "Right"},
            "padding": null, "normalizer": null, "decoder": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        Tokenizer::load(dir.path()).unwrap().unwrap()
    }

    #[test]
    fn text_goes_to_ids_and_back() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("We hold these truths").unwrap();
        assert_eq!((ids.len(), ids[0]), (5, 0));
        assert_eq!(tokenizer.decode(&ids).unwrap(), "We hold these truths");
    }

    #[test]
    fn a_folder_without_a_tokenizer_has_none_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Tokenizer::load(dir.path()).unwrap().is_none());
        std::fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
        let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }

    #[test]
    fn prompts_of_text_are_exact_begin_right_and_differ() {
        let tokenizer = tokenizer();
        let config = preset("gpt2").unwrap();
        for len in [1, 2, 16, 1000, 3000] {
            let rows = prompts(Some(&tokenizer), &config, 64, len, 7).unwrap();
            assert!(rows.iter().all(|row| row.len() == len && row[0] == 0));
            if len >= 16 {
                let different: BTreeSet<_> = rows.iter().collect();
                assert_eq!(different.len(), 64, "{len}");
            }
        }
        let small = ModelConfig {
            vocab_size: 100,
            ..config
        };
        let error = prompts(Some(&tokenizer), &small, 1, 3000, 7).unwrap_err();
        assert!(error.to_string().contains("vocabulary of 100"), "{error}");
    }

    proptest! {
        #[test]
        fn seeded_ids_are_ordinary_reproducible_and_differ(seed: u64, batch in 1usize..20) {
            let config = preset("tiny-llama").unwrap();
            let rows = prompts(None, &config, batch, 40, seed).unwrap();
            for id in rows.iter().flatten() {
                prop_assert!((*id as usize) < config.vocab_size);
                prop_assert!(!config.special_ids.contains(id));
            }
            let different: BTreeSet<_> = rows.iter().collect();
            prop_assert_eq!(different.len(), batch);
            prop_assert_eq!(&prompts(None, &config, batch, 40, seed).unwrap(), &rows);
            prop_assert_ne!(prompts(None, &config, batch, 40, seed ^ 1).unwrap(), rows);
        }
    }

    #[test]
    fn every_ordinary_id_is_drawn_and_no_special_one() {
        let json = serde_json::json!({
            "architectures": ["GPT2LMHeadModel"], "vocab_size": 8, "n_embd": 4, "n_layer": 1,
            "n_head": 1, "n_positions": 512, "bos_token_id": 0, "eos_token_id": [3, 7],
        });
        let config = ModelConfig::parse(&json.to_string()).unwrap();
        let drawn: BTreeSet<_> = from_seed(&config, 0, 400, 1).into_iter().collect();
        assert_eq!(drawn, BTreeSet::from([1, 2, 4, 5, 6]));
    }
}
