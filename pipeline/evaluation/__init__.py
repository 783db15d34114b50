"""How good is the synthesis, on phantoms whose truth is known and on a neck whose truth is not.

`scores` compares pixels tissue by tissue; `course` follows the canal through a stack; `canal`
measures canal and cord in the image alone; `effaced` asks what is drawn where the truth shows no
CSF, and `canal_alone` prints both without the rest; `injuries` looks for findings by thresholds;
`reference_free` is what can be measured without a truth; `run` does all of it in one run;
`report` writes it down. Phantom figures say how well the phantom was learned: they are no claim
about patients.
"""
