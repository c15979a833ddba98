"""Checking a whole data set: every problem at once, with its place; lengths, tiles, answers; a page of samples."""

from mmft.data.check.record import KINDS, Problem, RecordCheck
from mmft.data.check.sources import Source, source_of
from mmft.data.check.survey import CheckedFile, Group, Survey, survey

__all__ = ['KINDS', 'CheckedFile', 'Group', 'Problem', 'RecordCheck', 'Source', 'Survey', 'source_of', 'survey']
