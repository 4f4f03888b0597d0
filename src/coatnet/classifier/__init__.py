"""Classifier: engine + preprocessing + class names, in memory and as the folder that joins every verb after training.

Loading a folder proves that it is whole: each file is parsed strictly, the checksum of the weights compared, the logits
of a fixed image computed anew.
"""

from coatnet.classifier.classifier import Classifier as Classifier
from coatnet.classifier.classifier import Prediction as Prediction
