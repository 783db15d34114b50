"""Training on the phantom, in the order it happens.

`data` keeps pairs of CT and MRI made from seeds; `augment` shows each as another scanner would;
`losses` says what counts; `loop` trains and exports a model folder, which `pipeline.evaluation`
measures; `card` writes the model card. `codec_study` measured which codec to use.
"""
