"""The backends that serve model directories, and what is known of a kind of directory and each of them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ['BACKENDS', 'EXPORT_HF', 'Support', 'unsupported']

BACKENDS: dict[str, str] = {
    'turbomind': 'LMDeploy, TurboMind',
    'pytorch': 'LMDeploy, PyTorch engine',
    'transformers': 'transformers serve',
}
"""The backends, the one to prefer first."""

EXPORT_HF = 'export it with --layout hf'


@dataclass(frozen=True)
class Support:
    """One kind of model directory and who serves it.

    A cell is ``''`` where the backend answers as the model does in training, and otherwise says why not.

    Args:
        layout: of ``mmft pth_to_hf``.
        architecture: ``architectures[0]`` of ``config.json``.
        language_model: ``architectures[0]`` of the language model in it; '': any.
        llms: mmft's names of the language models that are exported so.
        towers: ``model_type`` of ``vision_config``; none: any.
        turbomind, pytorch, transformers: '', or why this backend does not serve it.
        remote_code: LMDeploy runs Python files of the directory (``--trust-remote-code``).
    """

    layout: str
    architecture: str
    language_model: str = ''
    llms: tuple[str, ...] = ()
    towers: tuple[str, ...] = ()
    turbomind: str = ''
    pytorch: str = ''
    transformers: str = ''
    remote_code: bool = False

    @property
    def backends(self) -> list[str]:
        """Who serves it, the one to prefer first."""
        return [name for name in BACKENDS if not getattr(self, name)]


def unsupported(layout: str, architecture: str, readers: str) -> Support:
    """A directory that no backend serves.

    Args:
        readers: who reads it.
    """
    why = f'only {readers} it; {EXPORT_HF}'
    return Support(layout, architecture, turbomind=why, pytorch=why, transformers=why)
