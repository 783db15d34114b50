"""The DICOM node. The way of an instance is the order to read it in.

`receive` (Storage SCP), `completion` (is the series whole?), `selection` (which series, why),
`workflow` (read, synthesize, package, deliver, commit), `deliver` (Storage SCU). The stages never
import each other: they meet in the `ledger`.
"""
