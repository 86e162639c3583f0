from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ghost_det.engine.checkpoints import AtomicBackend, find_checkpoint
from ghost_det.engine.messages import explain_errors
from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import load_checkpoint
from tests.engine.conftest import TrainSmall


def newest(work_dir: Path) -> str | None:
    saved = find_checkpoint(str(work_dir), 'auto')[0]
    return saved and Path(saved.path).name


def checkpoint_file(path: Path, step: int, **more: Any) -> None:
    meta = {'iter': step, 'epoch': 1, **more}
    torch.save({'meta': meta, 'state_dict': {'a': torch.rand(1000)}, 'optimizer': {}}, path)


def test_the_newest_intact_checkpoint_is_found_whatever_else_there_is(tmp_path: Path) -> None:
    assert find_checkpoint(str(tmp_path), 'auto') == (None, [])
    assert find_checkpoint(str(tmp_path), None) == (None, [])
    for step in (1, 2, 3, 4):
        checkpoint_file(tmp_path / f'epoch_{step}.pth', step)
    checkpoint_file(tmp_path / 'interrupted.pth', 5)
    os.utime(tmp_path / 'epoch_4.pth', (0, 0))  # a copied folder has dates of its own
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    (tmp_path / 'epoch_9.pth').mkdir()
    assert newest(tmp_path) == 'interrupted.pth'
    (tmp_path / 'interrupted.pth').unlink()
    assert newest(tmp_path) == 'epoch_4.pth'
    content = bytearray((tmp_path / 'epoch_4.pth').read_bytes())
    content[len(content) // 2] ^= 1  # which torch itself does not notice
    (tmp_path / 'epoch_4.pth').write_bytes(content)
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_3.pth').read_bytes()[:-100])
    assert newest(tmp_path) == 'epoch_2.pth'
    damaged = find_checkpoint(str(tmp_path), 'auto')[1]
    assert len(damaged) == 3 and any('epoch_4.pth: damaged' in line for line in damaged)
    checkpoint_file(tmp_path / 'epoch_1.pth', 1, began=2)  # of a training that was started later
    assert newest(tmp_path) == 'epoch_1.pth'


@pytest.mark.parametrize('content', [b'PK half', {'meta': {'iter': 1, 'epoch': 1}, 'state_dict': {}}])
def test_damaged_checkpoints_are_not_a_reason_to_start_over(content: Any, tmp_path: Path) -> None:
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match='no checkpoint of .* is intact.*epoch_1.pth'):
        find_checkpoint(str(tmp_path), 'auto')
    with pytest.raises(UserError, match='epoch_1.pth'):
        find_checkpoint(str(tmp_path), str(path))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'folder/x.pth'
    AtomicBackend().put(b'old', path)

    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(UserError, match='no space left'), explain_errors('config.py', folder=path.parent):
        AtomicBackend().put(b'new', path)
    assert path.read_bytes() == b'old' and [each.name for each in path.parent.iterdir()] == ['x.pth']


def test_what_a_work_folder_keeps(train_small: TrainSmall, tmp_path: Path) -> None:
    """Old checkpoints are removed, also after a kill; nothing else, whatever a checkpoint says."""
    folder = tmp_path / 'run'
    runner = train_small(epochs=1)
    began = runner.began
    content = load_checkpoint(folder / 'epoch_1.pth')
    assert content['meta']['began'] == began and (folder / 'report.json').exists()
    others = [tmp_path / 'best_other.pth', folder / 'notes.txt', folder / 'mine.pth', folder / 'epoch_7.pth']
    for other in (*others, folder / 'epoch_0.pth'):
        other.touch()
    # The best one as of a folder that was moved, or of a checkpoint that means harm.
    content['message_hub']['runtime_info'].update(best_ckpt=str(others[0]), best_score=-2.0)
    torch.save(content, folder / 'epoch_1.pth')
    runner = train_small(epochs=2, resume='auto')
    assert runner.iter == 4 and runner.began == began
    assert all(other.exists() for other in others) and not (folder / 'epoch_0.pth').exists()
    others[-1].unlink()
    assert sorted(path.name for path in folder.glob('epoch_*')) == ['epoch_2.pth']
    (log,) = [path.read_text() for path in folder.glob('*/*.log') if 'skipped' in path.read_text()]
    assert 'epoch_7.pth' in log

    runner = train_small(epochs=3, batch_size=2, resume='auto')
    logs = ''.join(path.read_text() for path in folder.glob('*/*.log'))
    assert runner.epoch == 3 and 'an epoch had 2 steps and has 4 now' in logs
    with torch.no_grad():
        next(runner.model.backbone.parameters()).fill_(float('nan'))
    with pytest.raises(UserError, match='1 of .* tensors of the network are NaN or infinite'):
        runner.save_checkpoint(str(folder), 'epoch_4.pth')
    assert not (folder / 'epoch_4.pth').exists() and (folder / 'epoch_3.pth').exists()

    content = load_checkpoint(folder / 'epoch_3.pth')
    torch.save({**content, 'param_schedulers': 7}, folder / 'epoch_3.pth')
    with pytest.raises(UserError, match='its state is damaged, or belongs to another optimizer or schedule'):
        train_small(epochs=4, resume='auto')
    assert 'checkpoints of an earlier training' not in logs
    assert train_small(epochs=1).began > began
    logs = ''.join(path.read_text() for path in folder.glob('*/*.log'))
    assert 'checkpoints of an earlier training' in logs
