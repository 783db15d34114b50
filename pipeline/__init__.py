"""CT in, pseudo-MRI out: no network, no database, no settings file.

The journey of a series, in the order to read it:
`volume` (datasets to HU), `anatomy` (is it a neck, where is the canal), `reformat` (sagittal
stack), `places` (canal, discs, ligaments in it), `synthesis` (the diffusion model), `support`
(where the CT does not support it), `fidelity` (how much of the patient is left), `labeling` (the
mark), `secondary_capture` (DICOM out), with `provenance` deriving every identity from the input.
"""
