-- Every series of radiographs goes to hipnode once it is complete, unless hipnode sent it.
function OnStableSeries(seriesId, tags, metadata)
   local modality = tags['Modality']
   if (modality == 'CR' or modality == 'DX') and metadata['RemoteAET'] ~= 'HIPNODE' then
      RestApiPost('/modalities/hipnode/store', DumpJson({ Resources = { seriesId }, Synchronous = false }))
   end
end
