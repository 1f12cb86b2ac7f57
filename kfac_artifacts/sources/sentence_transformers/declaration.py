"""What a directory of ``sentence-transformers`` declares: modules, lengths, prompts.

``modules.json`` lists the modules that a text goes through. The first is the encoder,
at the top of the directory or, in older layouts, in a folder such as ``0_Transformer``.
Only JSON is read here, and no code of a repository is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfac_artifacts.errors import SourceError

LISTING = "modules.json"
MODEL_SETTINGS = "config_sentence_transformers.json"
PACKAGE = "sentence_transformers."
TEXT_AS_USUAL = {"method": "forward", "method_output_name": "last_hidden_state"}
HARMLESS_MODEL_ARGUMENTS = frozenset(
    {"add_pooling_layer", "attn_implementation", "dtype", "torch_dtype"}
)
TOKENIZER_ARGUMENTS = frozenset(
    {"do_lower_case", "model_max_length", "padding_side", "truncation_side", "use_fast"}
)


@dataclass(frozen=True)
class Step:
    """One entry of ``modules.json``.

    Attributes:
        type: Full name of its class.
        folder: Where its files are, relative to the directory; may be empty.
    """

    type: str
    folder: str

    @property
    def kind(self) -> str:
        """Name of the class; with its module if ``sentence-transformers`` lacks it."""
        known = self.type.startswith(PACKAGE)
        return self.type.rpartition(".")[2] if known else self.type


@dataclass(frozen=True)
class Declaration:
    """What a directory of ``sentence-transformers`` says of its model.

    Attributes:
        directory: The directory.
        steps: Its modules in order; at least one.
        encoder_settings: Content of ``sentence_bert_config.json``.
        model_settings: Content of ``config_sentence_transformers.json``.
    """

    directory: Path
    steps: tuple[Step, ...]
    encoder_settings: Mapping[str, Any]
    model_settings: Mapping[str, Any]

    @property
    def encoder(self) -> Path:
        """Where the files of the first module are."""
        return self.directory / self.steps[0].folder

    @property
    def tokenizer_arguments(self) -> dict[str, Any]:
        """What the tokenizer is loaded with."""
        return self._arguments("tokenizer_args", "processor_kwargs")

    @property
    def max_length(self) -> int | None:
        """Tokens after which texts are cut off, if that is said."""
        own = self.tokenizer_arguments.get("model_max_length")
        return own or self.encoder_settings.get("max_seq_length")

    @property
    def lower_case(self) -> bool:
        """Whether texts are put in lower case before the tokenizer sees them."""
        return bool(self.encoder_settings.get("do_lower_case"))

    @property
    def gives_all_layers(self) -> bool:
        """Whether the hidden states of every layer are asked for."""
        arguments = self._arguments("config_args", "config_kwargs")
        return bool(arguments.get("output_hidden_states"))

    @property
    def prompts(self) -> dict[str, str]:
        """Every declared prompt that is not empty, by name."""
        found = self.model_settings.get("prompts", {})
        return {name: text for name, text in found.items() if text}

    @property
    def prompt(self) -> str:
        """What users see put before every text: the prompt declared as the default.

        Raises:
            SourceError: If it is not among the prompts.
        """
        name = self.model_settings.get("default_prompt_name")
        if name is None:
            return ""
        declared = self.model_settings.get("prompts", {})
        if name not in declared:
            raise SourceError(
                f"{MODEL_SETTINGS}: the default prompt {name!r} is not among the "
                f"prompts ({', '.join(declared) or 'none'})"
            )
        return declared[name] or ""

    @property
    def dimensions(self) -> int | None:
        """How many numbers of an embedding are kept, if not all."""
        return self.model_settings.get("truncate_dim")

    def check_encoder(self) -> None:
        """Refuse whatever would make the encoder another one than is loaded here.

        Raises:
            SourceError: Naming what is not handled.
        """
        first, settings = self.steps[0], self.encoder_settings
        kind = self.model_settings.get("model_type", "SentenceTransformer")
        modalities = settings.get("modality_config", {"text": TEXT_AS_USUAL})
        task = settings.get("transformer_task", "feature-extraction")
        output = settings.get("module_output_name", "token_embeddings")
        model = self._arguments("model_args", "model_kwargs")
        config = self._arguments("config_args", "config_kwargs")
        unknown = {
            "model argument": model.keys() - HARMLESS_MODEL_ARGUMENTS,
            "config argument": config.keys() - {"output_hidden_states"},
            "tokenizer argument": self.tokenizer_arguments.keys() - TOKENIZER_ARGUMENTS,
            "processing argument": settings.get("processing_kwargs", {}).keys(),
        }
        problems = [
            (kind != "SentenceTransformer", f"it is a {kind}"),
            (first.kind != "Transformer", f"its first module is a {first.kind}"),
            (task != "feature-extraction", f"its encoder is loaded for {task}"),
            (
                modalities.get("text") != TEXT_AS_USUAL or "message" in modalities,
                f"its encoder reads {', '.join(modalities)} in a way of its own",
            ),
            (output != "token_embeddings", f"its encoder gives {output}"),
            (
                bool(settings.get("tokenizer_name_or_path")),
                "its tokenizer is that of another model",
            ),
            *(
                (bool(v), f"it sets the {k} {min(v, default='')}")
                for k, v in unknown.items()
            ),
        ]
        self.refuse(*(text for wrong, text in problems if wrong))

    def refuse(self, *problems: str) -> None:
        """Say that what users see cannot be computed here, if there is a problem.

        Raises:
            SourceError: Naming the problems.
        """
        if problems:
            raise SourceError(
                "the embedding that sentence-transformers makes by this model's "
                f"{LISTING} is not handled: {'; '.join(problems)}. Choose another f of "
                "its encoder with --output-map (output_map=)"
            )

    def _arguments(self, old: str, new: str) -> dict[str, Any]:
        """Arguments under either of their names, without leave to run code."""
        found = self.encoder_settings.get(new, self.encoder_settings.get(old, {}))
        return {k: v for k, v in found.items() if k != "trust_remote_code"}
