"""A reduced output vocabulary: the same logits for what stays, and nothing that could be said becomes unsayable."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BartForConditionalGeneration, PreTrainedTokenizerFast

from pruning.checkpoint import load, save
from pruning.checkpoint_weights import EMBEDDINGS_NAME
from pruning.compaction import compact
from pruning.errors import ConfigError, DataError, UnsupportedModelError
from pruning.structure import density, parameters
from pruning.vocabulary import OutputVocabulary, choose_tokens, keep_vocabulary, output_vocabulary
from tests.pruning.helpers import random_batch, tiny_bart, tiny_model

TEXTS = ["the model reads the whole document", "a document is read by the model", "naïve readers — and writers — write the model down"]
UNSEEN = "Ünseen: 終 zebra quartz the documents\n\tmodelled"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few texts, with BART's special tokens: four at the start, the mask at the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([*TEXTS, "zebra quartz documents modelled " * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>", mask_token="<mask>"
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece that knows some words and, inside of words, only some letters: "baa" can be spelled, "abba" cannot."""
    special = ["[PAD]", "[unused1]", "[unused2]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*"abdego", "bad", "good", "dada", "##a", "##d", "##o", "##dad", "abba", "baa", "##e"]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate([*special, *words])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def shipped_tokenizer() -> PreTrainedTokenizerFast:
    """The WordPiece of a model that ships, 30,522 tokens of it."""
    path = Path(__file__).parents[2] / "models/qa/dense/tokenizer.json"
    return PreTrainedTokenizerFast(tokenizer_file=str(path), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def reduced(keep: int = 280) -> tuple[BartForConditionalGeneration, BartForConditionalGeneration, OutputVocabulary]:
    """A model, the same with fewer output tokens, and what these stand for."""
    tokenizer = byte_tokenizer()
    dense, small = (tiny_bart(vocabulary=len(tokenizer), dtype=torch.float64) for _ in range(2))
    return dense, small, keep_vocabulary(small, tokenizer, TEXTS, keep)


def targets(vocabulary: OutputVocabulary) -> tuple[torch.Tensor, torch.Tensor]:
    """Random output ids `[3, 7]`, and the tokenizer's ids for them."""
    ids = torch.randint(4, len(vocabulary.ids), (3, 7), generator=torch.Generator().manual_seed(0))
    return ids, torch.tensor([vocabulary.to_tokenizer(row) for row in ids.tolist()])


def test_logits_of_what_stays_are_those_of_the_dense_model():
    """For any target of kept tokens; the encoder reads every token there is."""
    dense, small, vocabulary = reduced()
    ids, tokens = targets(vocabulary)
    batch = random_batch("roberta", vocabulary=dense.config.vocab_size)
    with torch.no_grad():
        expected = dense(**batch, decoder_input_ids=tokens).logits[..., list(vocabulary.ids)]
        torch.testing.assert_close(small(**batch, decoder_input_ids=ids).logits, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("beams", [1, 4])
def test_generation_is_that_of_a_dense_model_kept_from_the_rest(beams: int):
    """The tokens are those of the dense model, were the others forbidden to it."""
    dense, small, vocabulary = reduced()
    batch = random_batch("roberta", vocabulary=dense.config.vocab_size)
    options = {"num_beams": beams, "min_new_tokens": 4, "max_new_tokens": 10, "no_repeat_ngram_size": 1}
    gone = sorted(set(range(dense.config.vocab_size)) - set(vocabulary.ids))
    dense.final_logits_bias[:, gone] = -1e9
    expected = dense.generate(**batch, **options)
    assert [vocabulary.to_tokenizer(row) for row in small.generate(**batch, **options).tolist()] == expected.tolist()


def test_the_loss_is_that_of_the_tokens_that_stay():
    """Labels are output ids; every table learns."""
    _, small, vocabulary = reduced()
    loss = small.train()(**random_batch("roberta", vocabulary=300), labels=targets(vocabulary)[0]).loss
    loss.backward()
    assert small.model.shared.weight.grad.any()
    assert small.lm_head.weight.grad.any()


def test_the_encoder_keeps_its_table_and_the_decoder_shares_the_reduced_one():
    """Two tables in all, and the counts say so."""
    dense, small, _ = reduced()
    assert small.model.shared.weight is small.model.encoder.embed_tokens.weight
    assert torch.equal(small.model.shared.weight, dense.model.shared.weight)
    assert small.model.decoder.embed_tokens.weight is small.lm_head.weight
    assert small.lm_head.weight.shape == (280, 32) == (small.config.vocab_size, 32)
    assert parameters(small).total == parameters(dense).total + 280 * 32
    assert density(small) == 1


def test_special_tokens_keep_their_ids():
    """Where they fit; one beyond the end moves, and the others need no mapping in any config."""
    tokenizer = byte_tokenizer()
    _, small, vocabulary = reduced()
    assert vocabulary.ids[:4] == (0, 1, 2, 3)
    assert tokenizer.mask_token_id in vocabulary.ids
    assert (small.config.pad_token_id, small.generation_config.eos_token_id, small.model.decoder.embed_tokens.padding_idx) == (1, 2, 1)
    words = word_tokenizer()
    chosen = choose_tokens(words, ["bad"], 18, special={0, 3, 4, 5, 6})
    assert [chosen[index] for index in (0, 3, 4, 5, 6)] == [0, 3, 4, 5, 6]


def test_special_tokens_that_move_are_renumbered_in_the_configs():
    """What generation forces or stops at is an output id."""
    tokenizer = byte_tokenizer()
    model = tiny_bart(vocabulary=len(tokenizer))
    model.config.forced_bos_token_id = model.generation_config.forced_bos_token_id = tokenizer.mask_token_id
    vocabulary = keep_vocabulary(model, tokenizer, TEXTS, 270)
    assert vocabulary.ids[model.config.forced_bos_token_id] == tokenizer.mask_token_id
    assert vocabulary.ids[model.generation_config.forced_bos_token_id] == tokenizer.mask_token_id


@pytest.mark.parametrize(("make", "keep"), [(byte_tokenizer, 270), (byte_tokenizer, 300), (word_tokenizer, 20), (shipped_tokenizer, 8000)])
def test_every_token_can_still_be_spelled(make, keep: int):
    """Each token of the tokenizer has a spelling in kept ones that decodes to the same text."""
    tokenizer = make()
    model = tiny_bart(vocabulary=len(tokenizer))
    vocabulary = keep_vocabulary(model, tokenizer, ["good dada"], keep)
    assert len(vocabulary.ids) == len(set(vocabulary.ids)) == keep
    assert set(vocabulary.spellings) >= set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)
    for token in tokenizer.get_vocab().values():
        spelled = vocabulary.to_tokenizer(vocabulary.to_output([token]))
        assert tokenizer.decode([0, *spelled]) == tokenizer.decode([0, token])
        assert spelled == [token] or token not in vocabulary.ids


def test_any_text_survives_the_way_there_and_back():
    """Bytes stay, so letters that no target had do too."""
    tokenizer = byte_tokenizer()
    _, _, vocabulary = reduced(270)
    tokens = tokenizer(UNSEEN, add_special_tokens=False)["input_ids"]
    spelled = vocabulary.to_tokenizer(vocabulary.to_output(tokens))
    assert len(spelled) > len(tokens)
    assert tokenizer.decode(spelled) == UNSEEN


def test_a_word_that_its_pieces_do_not_spell_stays_whole():
    """There is no ##b, so "abba" goes as a whole or not at all; "baa" is spelled, and may leave."""
    tokenizer = word_tokenizer()
    ids = tokenizer.get_vocab()
    chosen = set(choose_tokens(tokenizer, ["good dada"], 19, special=tokenizer.all_special_ids))
    assert chosen >= {ids[token] for token in (*"abdego", "##a", "##d", "##o", "##e", "abba")}
    assert ids["baa"] not in chosen


def test_tokens_that_targets_use_most_stay():
    """Of those that could leave, the most frequent; of equals, the first."""
    tokenizer = byte_tokenizer()
    ids = tokenizer.get_vocab()
    texts = ["model model model the"]
    used = tokenizer(texts, add_special_tokens=False)["input_ids"][0]
    longer = [token for token in dict.fromkeys(used) if len(tokenizer.convert_ids_to_tokens(token)) > 1]
    needed = 256 + 5
    assert set(longer) <= set(choose_tokens(tokenizer, texts, needed + len(longer), special=tokenizer.all_special_ids))
    assert ids["Ġmodel"] in choose_tokens(tokenizer, texts, needed + 1, special=tokenizer.all_special_ids)


def test_tokens_of_other_texts_come_after_those_of_targets():
    """However often other texts use a token, one that a target uses stays before it; then the most frequent of the others."""
    tokenizer = byte_tokenizer()
    ids, special = tokenizer.get_vocab(), tokenizer.all_special_ids
    longer = [token for token in tokenizer("the")["input_ids"] if len(tokenizer.convert_ids_to_tokens(token)) > 1]
    others = ["model model " * 9, "zebra"]
    first = 256 + 5 + len(longer)
    assert set(longer) <= set(choose_tokens(tokenizer, ["the"], first, others=others, special=special))
    assert ids["Ġmodel"] not in choose_tokens(tokenizer, ["the"], first, others=others, special=special)
    assert ids["Ġmodel"] in choose_tokens(tokenizer, ["the"], first + 1, others=others, special=special)


@pytest.mark.parametrize("prune_first", [True, False])
def test_reduced_model_is_saved_and_loaded(tmp_path: Path, prune_first: bool):
    """Tables, head, ids and tokens come back as they were, before and after compaction."""
    _, small, vocabulary = reduced()
    small = small.float()
    if prune_first:
        for layer in small.model.decoder.layers:
            layer.fc1.weight.data[:20] = 0
            layer.encoder_attn.v_proj.weight.data[:8] = 0
        small = compact(small)
    save(small, None, tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())
    assert loaded.lm_head.weight is loaded.model.decoder.embed_tokens.weight
    assert loaded.model.shared.weight is loaded.model.encoder.embed_tokens.weight
    assert output_vocabulary(loaded, byte_tokenizer()) == vocabulary
    batch = random_batch("roberta", vocabulary=300)
    assert torch.equal(loaded.generate(**batch, num_beams=2, max_new_tokens=5), small.generate(**batch, num_beams=2, max_new_tokens=5))


def test_reduced_model_shares_the_file_of_embeddings(tmp_path: Path):
    """What the encoder reads by is as it was, byte for byte; the rows that the decoder keeps are with the other weights."""
    dense, small, _ = reduced()
    for name, model in (("dense", dense), ("small", small)):
        save(model, None, tmp_path / name)
    assert (tmp_path / "dense" / EMBEDDINGS_NAME).read_bytes() == (tmp_path / "small" / EMBEDDINGS_NAME).read_bytes()


def test_dense_model_has_no_output_vocabulary_of_its_own():
    """Its output ids are the tokenizer's."""
    assert output_vocabulary(tiny_bart(), byte_tokenizer()) is None


def _with_bytes_for_the_rest(tokenizer: Tokenizer) -> None:
    tokenizer.model.byte_fallback = True


def _of_plain_words(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()


def _of_other_texts(tokenizer: Tokenizer) -> None:
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])


@pytest.mark.parametrize("change", [_with_bytes_for_the_rest, _of_plain_words, _of_other_texts])
def test_bpe_that_is_not_of_bytes_is_refused(change):
    """Its pieces do not spell what a token says; sequences with ByteLevel in them do."""
    tokenizer = byte_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.Sequence([decoders.ByteLevel()])
    choose_tokens(tokenizer, TEXTS, 270, special=tokenizer.all_special_ids)
    change(backend)
    with pytest.raises(UnsupportedModelError, match="BPE that is byte-level"):
        choose_tokens(tokenizer, TEXTS, 270, special=tokenizer.all_special_ids)


def test_what_cannot_be_reduced_is_refused():
    """Too few, too many, twice, an encoder, and a tokenizer whose pieces are not pieces of text."""
    tokenizer = byte_tokenizer()
    model = tiny_bart(vocabulary=len(tokenizer))
    with pytest.raises(ConfigError, match="261 have to stay"):
        keep_vocabulary(model, tokenizer, TEXTS, 260)
    with pytest.raises(ConfigError, match=f"cannot keep {len(tokenizer)} of"):
        keep_vocabulary(model, tokenizer, TEXTS, len(tokenizer))
    with pytest.raises(DataError, match="no target texts"):
        keep_vocabulary(model, tokenizer, [], 270)
    with pytest.raises(UnsupportedModelError, match="generates nothing"):
        keep_vocabulary(tiny_model(), tokenizer, TEXTS, 270)
    with pytest.raises(ConfigError, match="do not belong together"):
        keep_vocabulary(tiny_bart(), tokenizer, TEXTS, 270)
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    with pytest.raises(UnsupportedModelError, match="WordLevel"):
        keep_vocabulary(tiny_bart(), words, TEXTS, 2)
    keep_vocabulary(model, tokenizer, TEXTS, 270)
    with pytest.raises(ConfigError, match="reduced before"):
        keep_vocabulary(model, tokenizer, TEXTS, 265)
