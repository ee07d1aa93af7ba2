//! Distils a BERT into a static table over its own pieces of words and the shop's words and phrases.

use super::ShopTexts;
use super::pretrained::{PROJECTION_TEXTS_MAX, asked, rounded, write};
use crate::bundle::Part;
use crate::language::{ShopVocabulary, ShopVocabularyLimits, TextTokenizer};
use crate::nn::text::{
    Distillation, EncodeTokens as _, NEAREST, NeighbourAgreement, Projection, TextEncoder,
    TokenTable, token_weights,
};
use crate::scorer::{TextReader, open_bert, open_static};
use crate::train::Workspace;
use crate::train::recipe::DistilRecipe;
use anyhow::{Context as _, ensure};
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

/// Every so many items are held out of the fit, and only their neighbours are compared.
const HELD_OUT: usize = 4;
/// Strengths of the pull towards the teacher's vectors of single tokens that are tried.
const RIDGES: [f32; 4] = [0.03, 0.1, 0.3, 1.0];
/// Letters of a piece that is ranked among the words of the language.
const RANKED_LETTERS_MIN: usize = 2;

/// Distils the teacher, and keeps the table that agrees best with it about neighbours.
pub fn run(workspace: &mut Workspace<'_>, recipe: &DistilRecipe) -> anyhow::Result<Value> {
    let catalog = workspace.catalog()?;
    let texts = ShopTexts::of(workspace, &catalog, PROJECTION_TEXTS_MAX)?;
    let naming = || format!("the teacher {}", recipe.teacher.display());
    let (tokens, bert) = open_bert(&recipe.teacher).with_context(naming)?;
    let width = bert.width();
    ensure!(
        recipe.width <= width,
        "text_encoder.distil.width is {}, and the teacher's vectors have {width} numbers",
        recipe.width
    );
    let teacher = TextReader::new(
        tokens.clone(),
        TextEncoder::of_bert(bert.into(), Projection::fit(&[], width)),
    )?;
    let spoken: Vec<String> = texts.items.iter().chain(&texts.reasons).cloned().collect();
    let limits = ShopVocabularyLimits { words: recipe.words, phrases: recipe.phrases };
    let shop = ShopVocabulary::of(&tokens, &spoken, limits)?;
    workspace.progress.show("distil: items", 0, 2);
    let targets = teacher.wides(&texts.items);
    workspace.progress.show("distil: tokens", 1, 2);
    let outputs = token_vectors(&teacher, &tokens, &shop);
    workspace.progress.show("distil: fit", 2, 2);
    let judged = Judged::of(recipe, &texts, &targets, width)?;
    let chosen = judged.choose(&tokens, &shop, &outputs)?;
    chosen.tokens.save(&workspace.path(Part::Tokenizer))?;
    let table = chosen.table.halved();
    let report =
        write(workspace, &texts, |projection| TextEncoder::of_table(table.clone(), projection))?;
    Ok(json!({
        "encoder": report,
        "words_added": shop.words,
        "phrases_added": shop.added.len() - shop.words,
        "kept": chosen.name,
        // Shares of the held-out items' nearest neighbours by the teacher that are also nearest by the table.
        "neighbours": NEAREST,
        "agreement_with_teacher": chosen.agreements,
    }))
}

/// The teacher's vectors of every token of the shop's tokenizer: (tokens, width). Tokens that stand for no text are zeros.
fn token_vectors(teacher: &TextReader, tokens: &TextTokenizer, shop: &ShopVocabulary) -> Vec<f32> {
    // A piece within a word is no text of its own, so it is given by number, in the frame of any text.
    let framed = teacher.tokens("a");
    let frame = framed.first().copied().zip(framed.last().copied()).filter(|_| framed.len() > 2);
    let silent: FxHashSet<u32> = tokens.special().into_iter().collect();
    let text = |token: u32| {
        let piece = tokens.piece(token).filter(|piece| !piece.starts_with("[unused"));
        if piece.is_none() || silent.contains(&token) {
            return Vec::new();
        }
        match frame {
            Some((first, last)) => vec![first, token, last],
            None => vec![token],
        }
    };
    let pretrained = (0..tokens.vocabulary() as u32).map(text);
    let added = shop.added.iter().map(|text| teacher.tokens(text));
    let all: Vec<Vec<u32>> = pretrained.chain(added).collect();
    teacher.encoder().wide().encode_all(&all)
}

/// The teacher's pieces that are words of the language, in the order of its vocabulary: the most frequent come first.
fn ranked(tokens: &TextTokenizer) -> Vec<u32> {
    let is_word = |piece: &str| {
        piece.chars().count() >= RANKED_LETTERS_MIN && piece.chars().all(char::is_alphabetic)
    };
    let all = 0..tokens.vocabulary() as u32;
    all.filter(|&token| tokens.piece(token).is_some_and(|piece| is_word(&piece))).collect()
}

/// A table that may be kept, and how well each agreed.
struct Chosen {
    name: String,
    tokens: TextTokenizer,
    table: TokenTable,
    agreements: Value,
}

/// The teacher's view of the shop's items, by which tables are judged.
struct Judged<'a> {
    recipe: &'a DistilRecipe,
    items: &'a [String],
    /// (items, width): the teacher's vectors.
    targets: &'a [f32],
    width: usize,
    agreement: NeighbourAgreement,
    rival: Option<(TextTokenizer, TokenTable)>,
}

// === impl Judged ===

impl<'a> Judged<'a> {
    fn of(
        recipe: &'a DistilRecipe,
        texts: &'a ShopTexts,
        targets: &'a [f32],
        width: usize,
    ) -> anyhow::Result<Self> {
        let items = &texts.items;
        let held_out = asked(items.len().div_ceil(HELD_OUT));
        let held_out = held_out.into_iter().map(|item| item * HELD_OUT as u32).collect();
        let rival = recipe.rival.as_ref().map(|folder| {
            open_static(folder).with_context(|| format!("the rival {}", folder.display()))
        });
        Ok(Self {
            recipe,
            items,
            targets,
            width,
            agreement: NeighbourAgreement::of(targets, width, held_out),
            rival: rival.transpose()?,
        })
    }

    fn share(&self, tokens: &TextTokenizer, table: &TokenTable) -> f64 {
        let texts: Vec<Vec<u32>> = self.items.iter().map(|text| tokens.encode(text)).collect();
        self.agreement.share(&table.encode_all(&texts), table.width())
    }

    /// Makes the tables, and chooses the one that agrees best with the teacher about held-out items.
    ///
    /// `plain` is the raw static table: the teacher's vectors of its own tokens, added up. The others are distilled, but for
    /// the rival.
    fn choose(
        &self,
        tokens: &TextTokenizer,
        shop: &ShopVocabulary,
        outputs: &[f32],
    ) -> anyhow::Result<Chosen> {
        let texts: Vec<Vec<u32>> = self.items.iter().map(|text| shop.tokens.encode(text)).collect();
        let mut counts = vec![0_u32; shop.tokens.vocabulary()];
        for &token in texts.iter().flatten() {
            counts[token as usize] += 1;
        }
        let weights = token_weights(&counts, &ranked(tokens));
        let begun =
            Distillation::begin(outputs, self.targets, self.width, self.recipe.width, &weights);
        let own = &outputs[..tokens.vocabulary() * self.width];
        let mut tried = vec![
            ("plain".to_owned(), tokens.clone(), TokenTable::new(own.to_vec(), self.width)?),
            ("weighted".to_owned(), shop.tokens.clone(), begun.table()?),
        ];
        tried.extend(
            self.rival
                .iter()
                .map(|(tokens, table)| ("rival".to_owned(), tokens.clone(), table.clone())),
        );
        let (known, known_targets) = self.fitted_on(&texts);
        for ridge in RIDGES {
            let fitted = begun.fitted(&known, &known_targets, ridge).table()?;
            tried.push((format!("fitted, ridge {ridge}"), shop.tokens.clone(), fitted));
        }
        let shares: Vec<f64> =
            tried.iter().map(|(_, tokens, table)| self.share(tokens, table)).collect();
        let agreements = tried.iter().zip(&shares);
        let agreements =
            agreements.map(|((name, ..), share)| (name.clone(), rounded(*share).into()));
        let agreements = Value::Object(agreements.collect());
        let best =
            (0..tried.len()).max_by(|&a, &b| shares[a].total_cmp(&shares[b]).then(b.cmp(&a)));
        let (name, tokens, mut table) = tried.swap_remove(best.context("no table was made")?);
        let ridge = RIDGES.into_iter().find(|ridge| name == format!("fitted, ridge {ridge}"));
        if let Some(ridge) = ridge {
            table = begun.fitted(&texts, self.targets, ridge).table()?;
        }
        Ok(Chosen { name, tokens, table, agreements })
    }

    /// The items that are not held out: their tokens, and the teacher's vectors of them.
    fn fitted_on(&self, texts: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<f32>) {
        let rows = texts.iter().zip(self.targets.chunks_exact(self.width)).enumerate();
        let known = rows.filter(|(item, _)| !item.is_multiple_of(HELD_OUT));
        let (tokens, targets): (Vec<_>, Vec<_>) =
            known.map(|(_, (tokens, target))| (tokens.clone(), target)).unzip();
        (tokens, targets.concat())
    }
}
